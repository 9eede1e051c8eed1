//! A server in the program's own process, over a classifier of its own, and a call to it.
//!
//! `cargo run -p tidemill-serve --example serve_a_function`

use std::error::Error;

use tidemill_proto::v1::ClassifyRequest;
use tidemill_proto::v1::text_classification_client::TextClassificationClient;
use tidemill_serve::{ModelInfo, ModelSource, ServerConfig, serve_models};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let info = ModelInfo { name: "loudness".into(), version: "1".into(), labels: vec!["calm".into(), "loud".into()] };
    let model = ModelSource::classifier(info, || {
        Ok(|texts: &[&str]| {
            let loud = |text: &&str| if text.ends_with('!') { 0.9 } else { 0.1 };
            Ok(texts.iter().map(loud).map(|loud| vec![1.0 - loud, loud]).collect())
        })
    });

    let config = ServerConfig { address: "127.0.0.1:0".parse()?, ..ServerConfig::default() };
    let (stop, stopped) = oneshot::channel::<()>();
    let (tell, listening) = oneshot::channel();
    let server = tokio::spawn(async move {
        let shutdown = async {
            let _ = stopped.await;
        };
        let ready = |address| {
            let _ = tell.send(address);
        };
        serve_models(config, vec![model], shutdown, ready).await
    });

    let address = listening.await?;
    println!("listening on {address}");
    let mut client = TextClassificationClient::connect(format!("http://{address}")).await?;
    let texts = vec!["The tide is out.".to_owned(), "The tide is coming!".to_owned()];
    let request = ClassifyRequest { texts: texts.clone(), ..ClassifyRequest::default() };
    let answer = client.classify(request).await?.into_inner();
    for (text, classification) in texts.iter().zip(answer.classifications) {
        for label in classification.labels {
            println!("{text}  {} {:.2}", label.label, label.probability);
        }
    }

    let _ = stop.send(());
    server.await??;
    Ok(())
}
