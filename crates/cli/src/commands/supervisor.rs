//! What systemd is told of a service of `Type=notify-reload`, by the datagrams of sd_notify(3). Where nobody asks for them
//! nothing happens.

use std::time::Duration;

/// The service is ready, or has taken its new configuration.
pub(crate) fn ready() {
    send("READY=1");
}

/// The service takes a new configuration.
pub(crate) fn reloading() {
    send(&format!("RELOADING=1\nMONOTONIC_USEC={}", monotonic_micros()));
}

/// The service is on its way out.
pub(crate) fn stopping() {
    send("STOPPING=1");
}

/// Says that the service is alive, twice as often as is asked for. Never ends.
pub(crate) async fn keep_alive() {
    let Some(interval) = interval(&|name| std::env::var(name).ok(), std::process::id()) else {
        return std::future::pending().await;
    };
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        send("WATCHDOG=1");
    }
}

fn interval(variable: &dyn Fn(&str) -> Option<String>, process: u32) -> Option<Duration> {
    let whose = variable("WATCHDOG_PID");
    if whose.is_some_and(|whose| whose != process.to_string()) {
        return None;
    }
    let micros: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    Some(Duration::from_micros((micros / 2).max(1)))
}

#[cfg(target_os = "linux")]
fn send(message: &str) {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not hold the server up.
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the supervisor");
    }
}

#[cfg(not(target_os = "linux"))]
fn send(_message: &str) {}

#[cfg(target_os = "linux")]
fn monotonic_micros() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}

#[cfg(not(target_os = "linux"))]
fn monotonic_micros() -> i64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_answered_twice_as_often_as_it_asks_and_only_by_whom_it_means() {
        let asked = |whose: Option<&str>, micros: &str| {
            let (whose, micros) = (whose.map(str::to_owned), micros.to_owned());
            interval(&|name| if name == "WATCHDOG_PID" { whose.clone() } else { Some(micros.clone()) }, 7)
        };
        assert_eq!(asked(Some("7"), "3000000"), Some(Duration::from_millis(1500)));
        assert_eq!(asked(None, "3000000"), Some(Duration::from_millis(1500)));
        assert_eq!(asked(Some("8"), "3000000"), None);
        assert_eq!(asked(None, "soon"), None);
    }
}
