//! Asks a running server's chat model one question, and prints the answer as it is written.
//!
//! `tidemill serve chat=MODEL.gguf` in one terminal, and in another
//! `cargo run -p tidemill-client --example chat -- 127.0.0.1:8080 "What is a tide mill?"`

use std::error::Error;
use std::io::Write as _;
use std::time::Duration;

use tidemill_client::v1::{ChatMessage, ChatRequest, Sampling};
use tidemill_client::{Client, ClientOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("usage: chat HOST:PORT QUESTION")?;
    let content = arguments.next().ok_or("usage: chat HOST:PORT QUESTION")?;

    let options = ClientOptions { deadline: Some(Duration::from_secs(120)), ..ClientOptions::default() };
    let client = Client::connect(&address, options).await?;
    let message = ChatMessage { role: "user".into(), content, ..ChatMessage::default() };
    let sampling = Sampling { max_tokens: Some(200), ..Sampling::default() };
    // The model may be left unnamed when the server has one alone.
    let request = ChatRequest { messages: vec![message], sampling: Some(sampling), ..ChatRequest::default() };
    let mut pieces = client.chat_stream(request).await?;
    while let Some(piece) = pieces.next().await {
        print!("{}", piece?.content);
        std::io::stdout().flush()?;
    }
    println!();
    Ok(())
}
