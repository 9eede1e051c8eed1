//! `grpc.health.v1.Health` as the protocol has it. `tonic-health` does all of it but one thing: a watch on a name that is not
//! known yet is told so and goes on, so that a client may watch a model that is yet to be loaded.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

/// How often to look whether a name that is watched has become known.
const INTERVAL: Duration = Duration::from_secs(1);
/// Longest name that is waited for, in bytes: a watch keeps it.
const MAX_NAME: usize = 256;

/// The service that tells what is reported to `reporter`.
pub(crate) fn service(reporter: &HealthReporter) -> HealthServer<impl Health> {
    HealthServer::new(Watched { reporter: reporter.clone() })
}

#[derive(Debug)]
struct Watched {
    reporter: HealthReporter,
}

impl Watched {
    fn reported(&self) -> HealthService {
        HealthService::from_health_reporter(self.reporter.clone())
    }
}

type Answers = BoxStream<'static, Result<HealthCheckResponse, Status>>;

#[tonic::async_trait]
impl Health for Watched {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.reported().check(request).await
    }

    type WatchStream = Answers;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Answers>, Status> {
        let name = request.into_inner().service;
        let reported = self.reported();
        let answers = match watched(&reported, &name).await {
            Ok(answers) => answers,
            Err(unknown) if name.len() > MAX_NAME => return Err(unknown),
            Err(_) => {
                let status = ServingStatus::ServiceUnknown.into();
                let unknown = stream::once(std::future::ready(Ok(HealthCheckResponse { status })));
                unknown.chain(stream::once(known(reported, name)).flatten()).boxed()
            }
        };
        Ok(Response::new(answers))
    }
}

async fn watched(reported: &HealthService, name: &str) -> Result<Answers, Status> {
    let asked = Request::new(HealthCheckRequest { service: name.to_owned() });
    Ok(reported.watch(asked).await?.into_inner().boxed())
}

// The watch on a name from when it is known.
async fn known(reported: HealthService, name: String) -> Answers {
    loop {
        tokio::time::sleep(INTERVAL).await;
        if let Ok(answers) = watched(&reported, &name).await {
            return answers;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_may_be_watched_before_it_is_known() {
        let reporter = HealthReporter::new();
        let health = Watched { reporter: reporter.clone() };
        let asked = |name: &str| Request::new(HealthCheckRequest { service: name.to_owned() });
        let mut answers = health.watch(asked("late")).await.unwrap().into_inner();
        let mut next = async || answers.next().await.unwrap().unwrap().status();
        assert_eq!(next().await, ServingStatus::ServiceUnknown);
        reporter.set_service_status("late", tonic_health::ServingStatus::Serving).await;
        assert_eq!(next().await, ServingStatus::Serving);
        reporter.set_service_status("late", tonic_health::ServingStatus::NotServing).await;
        assert_eq!(next().await, ServingStatus::NotServing);
        assert!(health.watch(asked(&"x".repeat(MAX_NAME + 1))).await.is_err());
    }
}
