//! What operators ask of running clients, through the broker.

use agena_client::{Batch, Instance, Message};
use agena_protocol::bodies::running_info::{
    CMResult, ConsumeMessageDirectlyResult, ConsumerRunningInfo,
};
use agena_protocol::command::Command;
use agena_protocol::fastjson;
use agena_protocol::request_code::RequestCode;

use crate::consume::{builder, collect};
use crate::support::{
    Inbox, create_topic, eventually, instance, master, producer, send_numbers, text, unique,
};

async fn ask(instance: &Instance, code: RequestCode, request: Command) -> Command {
    let address = master(instance).await;
    let answer = instance.call_broker(&address, request).await.unwrap();
    Instance::success(&address, code, answer).unwrap()
}

#[tokio::test]
async fn a_consumer_tells_how_it_is() {
    let topic = unique("T");
    create_topic(&topic, 2).await;
    let group = unique("CG");
    let producer = producer().await;
    let (consumer, inbox) = collect(builder(&group, &topic)).await;
    send_numbers(&producer, &topic, "A", 4).await;
    inbox.wait_for(4).await;
    let operator = instance();
    let code = RequestCode::GetConsumerRunningInfo;
    let request = Command::request(code)
        .with_ext("consumerGroup", &*group)
        .with_ext("clientId", consumer.instance().client_id())
        .with_ext("jstackEnable", false);
    let answer = ask(&operator, code, request).await;
    let info: ConsumerRunningInfo = fastjson::from_slice(&answer.body).unwrap();
    assert_eq!(info.properties["PROP_CONSUME_TYPE"], "CONSUME_PASSIVELY");
    let of_topic = info.mq_table.keys().filter(|queue| queue.topic == topic);
    assert_eq!(of_topic.count(), 2);
    assert_eq!(info.subscription_set.len(), 2);
    assert!(info.status_table[&topic].consume_ok_tps > 0.0);
    operator.shutdown().await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn one_message_is_consumed_on_demand() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let group = unique("CG");
    let producer = producer().await;
    let inbox = Inbox::default();
    let put = inbox.clone();
    let consumer = builder(&group, &topic)
        .start(move |batch: Batch| {
            put.put(&batch);
            async {}
        })
        .await
        .unwrap();
    let sent = producer.send(Message::new(&topic, "again")).await.unwrap();
    inbox.wait_for(1).await;
    let operator = instance();
    let code = RequestCode::ConsumeMessageDirectly;
    let request = Command::request(code)
        .with_ext("consumerGroup", &*group)
        .with_ext("clientId", consumer.instance().client_id())
        .with_ext("msgId", &*sent.offset_msg_id)
        .with_ext("topic", &*topic)
        .with_ext("brokerName", &*sent.queue.broker_name);
    let answer = ask(&operator, code, request).await;
    let result: ConsumeMessageDirectlyResult = fastjson::from_slice(&answer.body).unwrap();
    assert_eq!(result.consume_result, CMResult::CrSuccess);
    assert!(!result.order);
    assert_eq!(inbox.bodies(), ["again", "again"]);
    operator.shutdown().await;
    consumer.shutdown().await;
    producer.shutdown().await;
}

#[tokio::test]
async fn offsets_that_are_reset_make_messages_come_again() {
    let topic = unique("T");
    create_topic(&topic, 1).await;
    let group = unique("CG");
    let producer = producer().await;
    let (consumer, inbox) = collect(builder(&group, &topic)).await;
    send_numbers(&producer, &topic, "A", 6).await;
    inbox.wait_for(6).await;
    let operator = instance();
    let code = RequestCode::InvokeBrokerToResetOffset;
    let request = Command::request(code)
        .with_ext("group", &*group)
        .with_ext("topic", &*topic)
        .with_ext("timestamp", 0)
        .with_ext("isForce", true)
        .with_ext("queueId", -1)
        .with_ext("offset", -1);
    ask(&operator, code, request).await;
    // The pull that is held at the broker is answered by the next message at the latest.
    producer.send(Message::new(&topic, "next")).await.unwrap();
    eventually("all come again", async || {
        let again = inbox
            .all()
            .iter()
            .filter(|message| text(message) == "0")
            .count();
        (again == 2 && inbox.bodies().iter().any(|body| body == "next")).then_some(())
    })
    .await;
    operator.shutdown().await;
    consumer.shutdown().await;
    producer.shutdown().await;
}
