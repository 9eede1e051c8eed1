//! The client: where it calls, and what it says with every call.

use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

use crate::channels::Channels;
use crate::error::ClientError;
use crate::options::ClientOptions;

/// A client of one server. Cheap to clone: clones share the connections and the bound on open calls.
///
/// Its methods are those of the services: `tidemill.v1`'s and the Open Inference Protocol's. They fail with
/// [`ClientError`]; calls are tried again as [`RetryPolicy`](crate::RetryPolicy) says.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) channels: Arc<Channels>,
    pub(crate) options: Arc<ClientOptions>,
    pub(crate) deadline: Option<Duration>,
    pub(crate) request_id: Option<MetadataValue<Ascii>>,
    pub(crate) authorization: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// A client of the server at `address`, `HOST:PORT`. Connects at once.
    ///
    /// # Errors
    /// An address or an option that makes no sense, and a server that does not answer.
    pub async fn connect(address: &str, options: ClientOptions) -> Result<Client, ClientError> {
        let authorization = options.authorization()?;
        Ok(Client::new(Channels::connect(address, &options).await?, options, authorization))
    }

    /// The same, but connects with the first call, and again after the server was away. To be called within a tokio
    /// runtime.
    ///
    /// ```
    /// use tidemill_client::{Client, ClientOptions};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// assert!(Client::lazy("127.0.0.1:8080", ClientOptions::default()).is_ok());
    /// let error = Client::lazy("127.0.0.1", ClientOptions::default()).err().map(|error| error.to_string());
    /// assert_eq!(error.as_deref(), Some("the address \"127.0.0.1\" is not HOST:PORT, such as 127.0.0.1:8080"));
    /// # }
    /// ```
    ///
    /// # Errors
    /// An address or an option that makes no sense.
    pub fn lazy(address: &str, options: ClientOptions) -> Result<Client, ClientError> {
        let authorization = options.authorization()?;
        Ok(Client::new(Channels::lazy(address, &options)?, options, authorization))
    }

    fn new(channels: Channels, options: ClientOptions, authorization: Option<MetadataValue<Ascii>>) -> Client {
        let deadline = options.deadline;
        Client { channels: Arc::new(channels), options: Arc::new(options), deadline, request_id: None, authorization }
    }

    /// The same client with another deadline for its calls.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Client {
        Client { deadline: Some(deadline), ..self.clone() }
    }

    /// The same client, whose calls have this `x-request-id` in the place of a random one.
    ///
    /// # Errors
    /// An id that no header can carry.
    pub fn with_request_id(&self, id: &str) -> Result<Client, ClientError> {
        let id = MetadataValue::try_from(id).map_err(|_| ClientError::Option {
            name: "request id",
            problem: "has a character that no header can carry; an id is visible ASCII".to_owned(),
        })?;
        Ok(Client { request_id: Some(id), ..self.clone() })
    }
}
