//! What a path asks of its caller. A path that the table does not know asks for a key, whatever its scopes, so that nothing
//! is open by being forgotten.

/// What a caller needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing: probes.
    Everyone,
    /// Any key.
    Key,
    /// The scope `infer`, and of the model that the request names.
    Infer,
    /// The scope `metrics`.
    Metrics,
    /// The scope `admin`, on a server whose management is switched on.
    Admin,
}

// A path that ends in a slash stands for all below it, but for the root, which stands for itself. Inference stands in the
// gate's own table. The page and its files say nothing of this server: what it shows it asks for with its reader's key.
const PATHS: [(&str, Access); 14] = [
    ("/", Access::Everyone),
    ("/page/", Access::Everyone),
    ("/healthz", Access::Everyone),
    ("/readyz", Access::Everyone),
    ("/grpc.health.v1.Health/", Access::Everyone),
    ("/inference.GRPCInferenceService/ServerLive", Access::Everyone),
    ("/inference.GRPCInferenceService/ServerReady", Access::Everyone),
    ("/v2/health/live", Access::Everyone),
    ("/v2/health/ready", Access::Everyone),
    ("/metrics", Access::Metrics),
    ("/inference.GRPCInferenceService/RepositoryIndex", Access::Admin),
    ("/inference.GRPCInferenceService/RepositoryModelLoad", Access::Admin),
    ("/inference.GRPCInferenceService/RepositoryModelUnload", Access::Admin),
    ("/v2/repository/", Access::Admin),
];

/// What this path needs, where it is not inference.
pub(crate) fn of(path: &str) -> Access {
    let stands = |row: &str| row == path || (row.len() > 1 && row.ends_with('/') && path.starts_with(row));
    PATHS.iter().find(|(row, _)| stands(row)).map_or(Access::Key, |(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_needs_a_key() {
        assert_eq!(of("/healthz"), Access::Everyone);
        assert_eq!(of("/grpc.health.v1.Health/Watch"), Access::Everyone);
        assert_eq!(of("/v2/repository/models/a/load"), Access::Admin);
        assert_eq!(of("/"), Access::Everyone);
        assert_eq!(of("/page/page.css"), Access::Everyone);
        for path in ["/healthz/", "//healthz", "/grpc.health.v1.Healthy/Check", "/v1/models", "/tidemill/models"] {
            assert_eq!(of(path), Access::Key, "{path}");
        }
        for path in ["//", "", "/page", "/pages/"] {
            assert_eq!(of(path), Access::Key, "{path}");
        }
    }
}
