//! The host that a request names. A page of any site can have its own name point to this machine once it is open in a
//! browser here (DNS rebinding), and then asks this server as if it were its own, answers included. A server that knows its
//! callers by nothing but being near is therefore asked by a name that no site on the Internet can have.

use std::net::IpAddr;

use tonic::codegen::http::Request;

/// Ends of names that the Internet's own name service never answers for.
const PRIVATE: [&str; 5] = [".localhost", ".local", ".internal", ".home.arpa", ".lan"];

/// Whether the host is an address, or a name that no site on the Internet can have. So is none at all.
pub(crate) fn is_private<B>(request: &Request<B>) -> bool {
    let authority = match request.uri().authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => request.headers().get("host").map(|value| value.as_bytes()).unwrap_or_default(),
    };
    std::str::from_utf8(authority).is_ok_and(|authority| is_private_name(name(authority)))
}

// Without the port.
fn name(authority: &str) -> &str {
    if let Some((address, _)) = authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    authority.split_once(':').map_or(authority, |(name, _)| name)
}

fn is_private_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name.parse::<IpAddr>().is_ok() || !name.contains('.') || PRIVATE.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn by_header(host: &str) -> bool {
        is_private(&Request::builder().uri("/v1/models").header("host", host).body(()).unwrap())
    }

    #[test]
    fn a_name_that_a_site_can_have_is_not_private() {
        for host in
            ["127.0.0.1:8080", "[::1]:8080", "localhost:8080", "LOCALHOST", "models", "mill.local:80", "a.localhost"]
        {
            assert!(by_header(host), "{host}");
        }
        for host in
            ["example.com", "example.com:8080", "127.0.0.1.example.com", "localhost.example.com.", "local.com", "é.fr"]
        {
            assert!(!by_header(host), "{host}");
        }
        let by_authority = |uri: &str| is_private(&Request::builder().uri(uri).body(()).unwrap());
        assert!(by_authority("http://127.0.0.1:8080/v2"));
        assert!(!by_authority("http://example.com/v2"));
        assert!(by_authority("/v2"));
    }
}
