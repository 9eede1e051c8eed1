//! Calls a running server: every text on the command line, one line out for each label.
//!
//! `tidemill serve PACKAGE` in one terminal, and in another
//! `cargo run -p tidemill-serve --example classify -- 127.0.0.1:8080 "A quiet, lovely film."`

use std::error::Error;
use std::time::Duration;

use tidemill_proto::v1::ClassifyRequest;
use tidemill_proto::v1::text_classification_client::TextClassificationClient;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: classify HOST:PORT TEXT...")?;
    let texts: Vec<String> = arguments.collect();

    let mut client = TextClassificationClient::connect(format!("http://{address}")).await?;
    // The model may be left unnamed when the server has one alone.
    let mut request = tonic::Request::new(ClassifyRequest { texts: texts.clone(), ..ClassifyRequest::default() });
    request.set_timeout(Duration::from_secs(5));
    let answer = client.classify(request).await?.into_inner();
    for (text, classification) in texts.iter().zip(answer.classifications) {
        println!("{text}");
        for label in classification.labels {
            println!("  {:>6.1} %  {}", 100.0 * label.probability, label.label);
        }
    }
    Ok(())
}
