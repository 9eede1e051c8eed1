//! How requests are scheduled: as a package says it, the operator, and a caller.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[allow(dead_code)]
#[path = "support/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "support/packages.rs"]
mod packages;
#[allow(dead_code)]
mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use packages::write_scheduled_package;
use support::{Outcomes, by_length, info, raw_infer, start, texts};
use tidemill_model::Scheduling;
use tidemill_proto::inference::infer_parameter::ParameterChoice;
use tidemill_proto::inference::model_config::SchedulingChoice;
use tidemill_proto::inference::{InferParameter, ModelConfigRequest};
use tidemill_serve::{ModelSource, ServerConfig};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_package_says_how_it_is_scheduled_and_the_operator_goes_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("reviews");
    let scheduling = Scheduling {
        instances: Some(2),
        preferred_batch_sizes: Some(vec![2, 4]),
        max_delay: Some(Duration::from_secs(20)),
        ..Scheduling::default()
    };
    write_scheduled_package(&place, "reviews", 3, scheduling).unwrap();
    let operators = Scheduling { max_delay: Some(Duration::from_millis(1)), ..Scheduling::default() };
    let config = ServerConfig { models: BTreeMap::from([("reviews".into(), operators)]), ..ServerConfig::default() };
    let server = start(config, vec![ModelSource::path(place.as_path())]).await;

    let asked = ModelConfigRequest { name: "reviews".into(), ..ModelConfigRequest::default() };
    let config = server.open().model_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_eq!(config.instance_group[0].count, 2);
    let Some(SchedulingChoice::DynamicBatching(batching)) = config.scheduling_choice else { panic!("{config:?}") };
    assert_eq!((batching.preferred_batch_size, batching.max_queue_delay_microseconds), (vec![2, 4], 1000));

    // Both instances answer from one line, and all alike.
    let mut calls = Vec::new();
    for _ in 0..32 {
        let mut client = server.typed();
        calls.push(tokio::spawn(async move { client.classify(texts("reviews", &["a good film"])).await }));
    }
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap().into_inner().classifications);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_requests_overtake_those_that_wait_and_no_others() {
    let (go, wait) = mpsc::channel::<()>();
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let source = ModelSource::classifier(info("sizes"), move || {
        Ok(move |batch: &[&str]| -> Outcomes {
            noted.lock().unwrap().extend(batch.iter().map(ToString::to_string));
            wait.recv()?;
            by_length(batch)
        })
    });
    let server = start(ServerConfig { max_batch_size: 1, ..ServerConfig::default() }, vec![source]).await;
    let waiting = async |count: &str| {
        let line = format!("tidemill_requests_waiting{{model=\"sizes\",version=\"3\"}} {count}");
        while !http::get(server.address, "/metrics").await.body.contains(&line) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };

    let call = |text: &'static str, priority: Option<&'static str>| {
        let mut client = server.typed();
        let mut request = Request::new(texts("sizes", &[text]));
        if let Some(priority) = priority {
            request.metadata_mut().insert("x-priority", priority.parse().unwrap());
        }
        tokio::spawn(async move { client.classify(request).await.map(|_| ()) })
    };
    let mut calls = vec![call("runs", None)];
    while seen.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    calls.push(call("later", Some("5")));
    waiting("1").await;
    calls.push(call("as usual", None));
    waiting("2").await;
    let mut urgent = raw_infer("sizes", &["first"]);
    let parameter = |number| InferParameter { parameter_choice: Some(ParameterChoice::Uint64Param(number)) };
    urgent.parameters.insert("priority".into(), parameter(1));
    let mut client = server.open();
    let urgent = tokio::spawn(async move { client.model_infer(urgent).await.map(|_| ()) });
    waiting("3").await;
    for _ in 0..4 {
        go.send(()).unwrap();
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
    urgent.await.unwrap().unwrap();
    assert_eq!(*seen.lock().unwrap(), ["runs", "first", "as usual", "later"]);

    let refused = call("wrong", Some("9")).await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, "x-priority");
    let mut wrong = raw_infer("sizes", &["wrong"]);
    wrong.parameters.insert("priority".into(), parameter(6));
    let refused = server.open().model_infer(wrong).await.unwrap_err();
    assert!(refused.message().starts_with("parameters[priority]"), "{refused:?}");
    server.stop().await.unwrap();
}
