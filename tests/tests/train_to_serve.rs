//! From raw rows to a served model, as a user goes: train, look, evaluate, ask, serve, stop.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tidemill_proto::{inference, v1};
use tidemill_tests::{Server, finish, program, reviews, small_recipe, start, tidemill, tidemill_with_input};

/// One trained run that the tests of this file share: training is the slow part.
fn run() -> &'static Path {
    static RUN: OnceLock<PathBuf> = OnceLock::new();
    RUN.get_or_init(|| {
        let folder = tempfile::Builder::new().prefix("tidemill-e2e").tempdir().unwrap().keep();
        std::fs::write(folder.join("reviews.tsv"), reviews(400)).unwrap();
        std::fs::write(folder.join("recipe.toml"), small_recipe("")).unwrap();
        tidemill(&folder, &["train", "recipe.toml", "--output", "run"]).success();
        folder
    })
}

const GOOD: &str = "What a wonderful cast and a superb ending";
const BAD: &str = "What a dreadful cast and a tedious ending";

#[test]
fn training_leaves_a_package_a_report_and_a_history() {
    let run = run().join("run");
    for file in ["package/tidemill.toml", "package/config.json", "package/model.safetensors", "package/tokenizer.json"]
    {
        assert!(run.join(file).is_file(), "{file}");
    }
    let report = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("<svg") && !report.contains("<script"), "one page, inline plots, no scripts");
    let history = std::fs::read_to_string(run.join("history.jsonl")).unwrap();
    assert!(history.lines().count() > 1);
    assert!(history.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    assert!(std::fs::read_dir(&run).unwrap().any(|f| f.unwrap().file_name().to_string_lossy().contains("tfevents")));
}

#[test]
fn evaluation_measures_what_was_learned() {
    let folder = run();
    let arguments = ["eval", "run/package", "reviews.tsv", "--header", "false", "--text", "1", "--label", "2"];
    let text = tidemill(folder, &arguments).success().stdout;
    assert!(text.contains("accuracy") && text.contains("positive"), "{text}");
    let json = tidemill(folder, &[&arguments[..], &["--json"]].concat()).success().json();
    let accuracy = json["metrics"].as_array().unwrap().iter().find(|m| m["name"] == "accuracy").unwrap();
    assert!(accuracy["value"].as_f64().unwrap() > 0.9, "{accuracy}");
}

#[test]
fn prediction_reads_arguments_files_and_standard_input() {
    let folder = run();
    let text = tidemill(folder, &["predict", "run/package", GOOD, BAD]).success().stdout;
    let labels: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(labels, ["positive", "negative"], "{text}");

    let lines =
        tidemill_with_input(folder, &["predict", "run/package", "--format", "json"], &format!("{GOOD}\n\n{BAD}\n"));
    let lines = lines.success().stdout;
    let values: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(values.len(), 3, "an empty line is a text too");
    assert_eq!(values[0]["label"], "positive");
    let sum: f64 = values[2]["probabilities"].as_object().unwrap().values().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-5);

    std::fs::write(folder.join("texts.txt"), format!("{BAD}\n{GOOD}\n")).unwrap();
    let csv = tidemill(folder, &["predict", "run/package", "--file", "texts.txt", "--format", "csv"]).success().stdout;
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows[0], "label,negative,positive,text");
    assert!(rows[1].starts_with("negative,") && rows[2].starts_with("positive,"), "{csv}");
}

#[test]
fn a_copied_program_runs_from_another_folder() {
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("tidemill-copy");
    std::fs::copy(program(), &copy).unwrap();
    let package = run().join("run/package");
    let mut command = std::process::Command::new(&copy);
    let out = finish(command.args(["inspect"]).arg(&package).current_dir("/").env_remove("LD_LIBRARY_PATH")).success();
    assert!(out.stdout.contains("sentiment") && out.stdout.contains("text_cnn"), "{}", out.stdout);
}

#[test]
fn inspection_and_preview_say_what_is_there() {
    let folder = run();
    let json = tidemill(folder, &["inspect", "run/package", "--json"]).success().json();
    assert_eq!(json["manifest"]["labels"], serde_json::json!(["negative", "positive"]));
    let preview = tidemill(folder, &["data", "recipe.toml"]).success().stdout;
    assert!(preview.contains("400") && preview.contains("validation"), "{preview}");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_services_answer_as_the_pipeline_does() {
    let folder = run();
    let server = Server::start(folder, &["run/package"]);
    let channel = server.channel().await;

    let mut typed = v1::text_classification_client::TextClassificationClient::new(channel.clone());
    let texts = vec![GOOD.to_owned(), BAD.to_owned()];
    let request = v1::ClassifyRequest { model: "sentiment".into(), texts, ..Default::default() };
    let answer = typed.classify(request).await.unwrap().into_inner();
    assert_eq!(answer.classifications.len(), 2);
    assert_eq!(answer.classifications[0].labels[0].label, "positive");
    let p = f64::from(answer.classifications[0].labels[0].probability);

    let mut open = inference::grpc_inference_service_client::GrpcInferenceServiceClient::new(channel.clone());
    let mut bytes = Vec::new();
    for text in [GOOD, BAD] {
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend(text.as_bytes());
    }
    let request = inference::ModelInferRequest {
        model_name: "sentiment".into(),
        id: "42".into(),
        inputs: vec![inference::model_infer_request::InferInputTensor {
            name: "text".into(),
            datatype: "BYTES".into(),
            shape: vec![2],
            ..Default::default()
        }],
        raw_input_contents: vec![bytes.into()],
        ..Default::default()
    };
    let answer = open.model_infer(request).await.unwrap().into_inner();
    assert_eq!(answer.id, "42");
    let at = answer.outputs.iter().position(|o| o.name == "probabilities").unwrap();
    assert_eq!(answer.outputs[at].shape, [2, 2]);
    let raw: &[u8] = &answer.raw_output_contents[at];
    let positive = f64::from(f32::from_le_bytes(raw[4..8].try_into().unwrap()));
    assert!((positive - p).abs() < 1e-6, "both services run one pipeline: {positive} and {p}");

    let local = tidemill(folder, &["predict", "run/package", "--format", "json", GOOD]).success().json();
    assert!((local["probabilities"]["positive"].as_f64().unwrap() - p).abs() < 1e-5);
    let remote =
        tidemill(folder, &["predict", "--address", &server.address, "--model", "sentiment", "--format", "json", GOOD]);
    assert_eq!(remote.success().json()["label"], "positive");
}

#[test]
fn a_server_is_measured_by_one_command() {
    let folder = run();
    let server = Server::start(folder, &["run/package"]);
    std::fs::write(folder.join("load.txt"), format!("{GOOD}\n{BAD}\n")).unwrap();
    let common = ["bench", &server.address, "--model", "sentiment", "--warm-up", "0"];
    let closed = ["--text", "load.txt", "--concurrency", "1,4", "--requests", "40", "--plot", "curves.svg", "--json"];
    let figures = tidemill(folder, &[&common[..], &closed[..]].concat()).success().json();
    let runs = figures["runs"].as_array().unwrap();
    assert_eq!(runs.iter().map(|run| run["concurrency"].as_f64().unwrap()).collect::<Vec<_>>(), [1.0, 4.0]);
    for run in runs {
        assert_eq!((run["answered"].as_u64(), run["errors"].as_object().unwrap().len()), (Some(40), 0), "{run}");
        let latency = |name: &str| run["latency_ms"][name].as_f64().unwrap();
        assert!(latency("p50") > 0.0 && latency("p50") <= latency("p99") && latency("p99") <= latency("max"), "{run}");
    }
    assert!(std::fs::read_to_string(folder.join("curves.svg")).unwrap().contains("4 callers"));

    let open = ["--rate", "200", "--arrivals", "poisson", "--duration", "0.5", "--shape", "text:3"];
    let text = tidemill(folder, &[&common[..], &open[..]].concat()).success().stdout;
    assert!(text.contains("p99.9") && text.lines().count() >= 3, "{text}");

    let problem = tidemill(folder, &[&common[..], &["--shape", "x:3"]].concat());
    assert_eq!(problem.code, 2);
    assert!(problem.stderr.contains("\"x\"") && problem.stderr.contains("text"), "{}", problem.stderr);
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_bench_with_the_figures_so_far() {
    let server = Server::start(run(), &["run/package"]);
    let mut command = start(run(), &["bench", &server.address, "--duration", "60", "--warm-up", "0", "--json"]);
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let figures: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(figures["runs"][0]["stopped"] == true && figures["runs"][0]["answered"].as_u64() > Some(0), "{figures}");
}

#[test]
fn a_server_that_is_not_there_is_a_sentence() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for arguments in [&["predict", "--address", &free, "a film"][..], &["bench", &free][..]] {
        let problem = tidemill(&std::env::temp_dir(), arguments);
        assert_eq!(problem.code, 2);
        let wanted = format!("no server answers at {free}");
        assert!(problem.stderr.contains(&wanted) && problem.stderr.contains("tidemill serve"), "{}", problem.stderr);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_the_right_status() {
    let server = Server::start(run(), &["run/package"]);
    let mut typed = v1::text_classification_client::TextClassificationClient::new(server.channel().await);
    let ask =
        |model: &str, texts: Vec<String>| v1::ClassifyRequest { model: model.into(), texts, ..Default::default() };
    let status = typed.classify(ask("sentimant", vec![GOOD.into()])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
    assert!(status.message().contains("sentiment"), "names the nearest: {}", status.message());
    let status = typed.classify(ask("../sentiment", vec![GOOD.into()])).await.unwrap_err();
    assert!(matches!(status.code(), tonic::Code::NotFound | tonic::Code::InvalidArgument));
    let status = typed.classify(ask("sentiment", vec![])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let mut late = tonic::Request::new(ask("sentiment", vec![GOOD.into(); 64]));
    late.set_timeout(Duration::from_nanos(1));
    let status = typed.classify(late).await.unwrap_err();
    assert!(matches!(status.code(), tonic::Code::DeadlineExceeded | tonic::Code::Cancelled), "{status}");
    let huge = typed.classify(ask("sentiment", vec!["x".repeat(64 << 20)])).await.unwrap_err();
    assert!(
        matches!(huge.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted | tonic::Code::InvalidArgument),
        "{huge}"
    );
    assert!(typed.classify(ask("sentiment", vec![GOOD.into()])).await.is_ok(), "the server is well afterwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_was_accepted() {
    let server = Server::start(run(), &["run/package"]);
    let client = v1::text_classification_client::TextClassificationClient::new(server.channel().await);
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let mut client = client.clone();
            let texts = vec![GOOD.to_owned(); 64];
            tokio::spawn(async move {
                client.classify(v1::ClassifyRequest { model: "sentiment".into(), texts, ..Default::default() }).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    server.terminate();
    let mut answered = 0;
    for call in calls {
        match call.await.unwrap() {
            Ok(_) => answered += 1,
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
    }
    assert!(answered > 0, "what was accepted is answered");
    assert_eq!(server.wait(Duration::from_secs(30)), Some(0));
}

#[test]
fn two_servers_on_one_port_are_told_apart() {
    let server = Server::start(run(), &["run/package"]);
    let second = tidemill(run(), &["serve", "run/package", "--address", &server.address]);
    assert_eq!(second.code, 2);
    assert!(second.stderr.contains(&server.address), "{}", second.stderr);
}

#[test]
fn a_new_recipe_is_commented_and_parses() {
    let folder = tempfile::tempdir().unwrap();
    tidemill(folder.path(), &["new", "text-classification", "--output", "recipe.toml"]).success();
    let recipe = std::fs::read_to_string(folder.path().join("recipe.toml")).unwrap();
    assert!(recipe.lines().filter(|line| line.starts_with('#')).count() > 10);
    let data = folder.path().join("reviews.csv");
    std::fs::write(&data, format!("text,label\n{}", reviews(200).replace(", take", " take").replace('\t', ",")))
        .unwrap();
    let set = format!("data.train={}", data.display());
    tidemill(folder.path(), &["data", "recipe.toml", "--set", &set]).success();
    let again = tidemill(folder.path(), &["new", "text-classification", "--output", "recipe.toml"]);
    assert_eq!(again.code, 2, "an existing file is left alone");
}

#[test]
fn help_and_completions_teach() {
    let folder = std::env::temp_dir();
    let help = tidemill(&folder, &["--help"]).success().stdout;
    assert!(help.contains("Examples:") && help.contains("Exit codes:"));
    for command in ["train", "eval", "predict", "serve", "bench", "inspect", "data", "new"] {
        let help = tidemill(&folder, &[command, "--help"]).success().stdout;
        assert!(help.contains("Example"), "{command} --help shows an example");
    }
    let script = finish(&mut start(&folder, &["completions", "bash"])).success().stdout;
    assert!(script.contains("_tidemill"));
}
