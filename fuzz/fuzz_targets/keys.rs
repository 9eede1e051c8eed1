//! Any bytes as a file of API keys, opened by a server that ends at once.
#![no_main]

use std::net::{Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use tidemill_serve::{ServerConfig, serve_models};

fuzz_target!(|bytes: &[u8]| {
    let (Ok(file), Ok(runtime)) =
        (tempfile::NamedTempFile::new(), tokio::runtime::Builder::new_current_thread().enable_all().build())
    else {
        return;
    };
    if std::fs::write(file.path(), bytes).is_err() {
        return;
    }
    let config = ServerConfig {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        keys: Some(file.path().to_owned()),
        ..ServerConfig::default()
    };
    let _ = runtime.block_on(serve_models(config, Vec::new(), std::future::ready(()), |_| ()));
});
