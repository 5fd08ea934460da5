//! Questions and answers.

use std::sync::Arc;
use std::time::Duration;

use agena_client::{Batch, ClientError, Message};

use crate::consume::builder;
use crate::support::{create_topic, producer, text, unique};

#[tokio::test]
async fn who_asks_gets_the_answer_to_its_own_question() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let answerer = Arc::new(producer().await);
    let answers = Arc::clone(&answerer);
    let consumer = builder(&unique("CG"), &topic)
        .start(move |batch: Batch| {
            let answerer = Arc::clone(&answers);
            async move {
                for question in &batch {
                    let answer = format!("re: {}", text(question));
                    answerer.reply(question, answer).await?;
                }
                Ok::<(), ClientError>(())
            }
        })
        .await
        .unwrap();
    let asker = producer().await;
    for number in 0..5 {
        let question = Message::new(&topic, number.to_string());
        let reply = asker
            .request(question, Duration::from_secs(10))
            .await
            .unwrap();
        assert_eq!(&reply.body[..], format!("re: {number}").as_bytes());
    }
    consumer.shutdown().await;
    asker.shutdown().await;
}

#[tokio::test]
async fn a_question_that_nobody_answers_ends_in_time() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let asker = producer().await;
    let question = Message::new(&topic, "anybody?");
    let nothing = asker.request(question, Duration::from_millis(500)).await;
    assert!(
        matches!(nothing, Err(ClientError::NoReply { .. })),
        "{nothing:?}"
    );
    asker.shutdown().await;
}
