//! Any text as the server's configuration.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidemill_serve::ServerConfig;

fuzz_target!(|text: &str| {
    if let Ok(config) = toml::from_str::<ServerConfig>(text) {
        let _ = config.check();
    }
});
