package interop;

import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.util.TreeSet;
import java.util.concurrent.ThreadLocalRandom;
import java.util.stream.Collectors;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** The twin of examples/member.rs, consumer's side: the same arguments, the same lines. */
final class Member {
    /** Not a channel: a client that shuts down interrupts its listeners, which would close one in the middle of a note. */
    private static FileOutputStream log;

    private Member() {
    }

    /** consume NAMESRV TOPIC GROUP LOG [inorder FAILURES_PER_THOUSAND | always-fail] */
    public static void main(String... words) throws Exception {
        String topic = words[2];
        log = new FileOutputStream(words[4], true);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(words[3]);
        consumer.setNamesrvAddr(words[1]);
        consumer.setInstanceName(String.valueOf(ProcessHandle.current().pid()));
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        String kind = words.length > 5 ? words[5] : "";
        if (kind.equals("inorder")) {
            int failures = Integer.parseInt(words[6]);
            consumer.setConsumeMessageBatchMaxSize(1);
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                boolean ok = ThreadLocalRandom.current().nextInt(1000) >= failures;
                for (MessageExt message : messages) {
                    delivery(message, ok);
                }
                if (ok) {
                    return ConsumeOrderlyStatus.SUCCESS;
                }
                context.setSuspendCurrentQueueTimeMillis(10);
                return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
            });
        } else {
            boolean ok = !kind.equals("always-fail");
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                for (MessageExt message : messages) {
                    delivery(message, ok);
                }
                return ok ? ConsumeConcurrentlyStatus.CONSUME_SUCCESS : ConsumeConcurrentlyStatus.RECONSUME_LATER;
            });
        }
        consumer.start();
        Thread watch = new Thread(() -> watch(consumer, topic));
        watch.setDaemon(true);
        watch.start();
        while (System.in.read() >= 0) {
            continue;
        }
        consumer.shutdown();
        note("Q " + System.currentTimeMillis() + " ");
        System.exit(0);
    }

    private static void watch(DefaultMQPushConsumer consumer, String topic) {
        TreeSet<Integer> before = new TreeSet<>();
        while (true) {
            TreeSet<Integer> queues = consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable()
                .keySet().stream().filter(queue -> queue.getTopic().equals(topic)).map(MessageQueue::getQueueId)
                .collect(Collectors.toCollection(TreeSet::new));
            if (!queues.equals(before)) {
                note("Q " + System.currentTimeMillis() + " "
                    + queues.stream().map(String::valueOf).collect(Collectors.joining(" ")));
                before = queues;
            }
            try {
                Thread.sleep(50);
            } catch (InterruptedException end) {
                return;
            }
        }
    }

    private static void delivery(MessageExt message, boolean ok) {
        note("D " + System.currentTimeMillis() + " " + message.getQueueId() + " " + message.getQueueOffset() + " "
            + message.getReconsumeTimes() + (ok ? " ok " : " fail ") + new String(message.getBody(), StandardCharsets.UTF_8));
    }

    /** One line by one call, which the file takes whole behind its end. */
    private static void note(String line) {
        try {
            log.write((line + "\n").getBytes(StandardCharsets.UTF_8));
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }
}
