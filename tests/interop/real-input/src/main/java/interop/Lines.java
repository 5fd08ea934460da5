package interop;

import java.io.BufferedWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * A text file as messages, one a line, and back. The key of a message is its line's number, its tag says whether the line
 * is longer than eight bytes; what arrives is written as {@code key tag line}, in the order of arrival.
 */
public final class Lines {
    private static final int IN_FLIGHT = 512;
    private static final long QUIET_MS = 3_000;
    private static final long LIMIT_MS = 180_000;

    private Lines() {
    }

    public static void main(String[] args) throws Exception {
        if (args.length == 4 && args[0].equals("produce")) {
            produce(args[1], args[2], Path.of(args[3]));
        } else if (args.length == 6 && args[0].equals("consume")) {
            consume(args[1], args[2], args[3], Integer.parseInt(args[4]), Path.of(args[5]));
        } else if (args.length == 4 && args[0].equals("idle")) {
            idle(args[1], args[2], Integer.parseInt(args[3]));
        } else {
            System.err.println("usage: Lines produce NAMESRV TOPIC FILE | Lines consume NAMESRV TOPIC GROUP COUNT FILE"
                + " | Lines idle NAMESRV TOPIC SECONDS");
            System.exit(2);
        }
        System.exit(0); // the client leaves threads behind
    }

    private static String tag(byte[] line) {
        return line.length > 8 ? "long" : "short";
    }

    private static void produce(String namesrv, String topic, Path file) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer("lines_producer");
        producer.setNamesrvAddr(namesrv);
        producer.setSendMsgTimeout(10_000);
        producer.start();
        List<String> lines = Files.readAllLines(file, StandardCharsets.UTF_8);
        Semaphore inFlight = new Semaphore(IN_FLIGHT);
        AtomicReference<String> fault = new AtomicReference<>();
        long begin = System.currentTimeMillis();
        int number = 0;
        for (String line : lines) {
            byte[] body = line.getBytes(StandardCharsets.UTF_8);
            inFlight.acquire();
            producer.send(new Message(topic, tag(body), Integer.toString(++number), body), new SendCallback() {
                @Override
                public void onSuccess(SendResult result) {
                    if (result.getSendStatus() != SendStatus.SEND_OK) {
                        fault.compareAndSet(null, result.toString());
                    }
                    inFlight.release();
                }

                @Override
                public void onException(Throwable cause) {
                    fault.compareAndSet(null, cause.toString());
                    inFlight.release();
                }
            });
        }
        inFlight.acquire(IN_FLIGHT);
        producer.shutdown();
        if (fault.get() != null) {
            System.err.println("a send failed: " + fault.get());
            System.exit(1);
        }
        System.out.println("sent " + number + " lines in " + (System.currentTimeMillis() - begin) + " ms");
    }

    /** A producer and a push consumer that have done one message and then only stay connected. */
    private static void idle(String namesrv, String topic, int seconds) throws Exception {
        CountDownLatch received = new CountDownLatch(1);
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("idle_consumer");
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            received.countDown();
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        DefaultMQProducer producer = new DefaultMQProducer("idle_producer");
        producer.setNamesrvAddr(namesrv);
        producer.start();
        producer.send(new Message(topic, "before the silence".getBytes(StandardCharsets.UTF_8)));
        consumer.start();
        if (!received.await(60, TimeUnit.SECONDS)) {
            System.err.println("the message did not arrive");
            System.exit(1);
        }
        System.out.println("connected");
        Thread.sleep(seconds * 1000L);
        consumer.shutdown();
        producer.shutdown();
    }

    /** Ends when nothing has come for a while after the expected number, so that doubles would be seen. */
    private static void consume(String namesrv, String topic, String group, int expected, Path file) throws Exception {
        AtomicInteger count = new AtomicInteger();
        AtomicLong last = new AtomicLong(System.currentTimeMillis());
        List<String> written = new ArrayList<>();
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(namesrv);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
            synchronized (written) {
                for (MessageExt message : messages) {
                    written.add(message.getKeys() + " " + message.getTags() + " "
                        + new String(message.getBody(), StandardCharsets.UTF_8));
                }
            }
            count.addAndGet(messages.size());
            last.set(System.currentTimeMillis());
            return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        long begin = System.currentTimeMillis();
        consumer.start();
        while (System.currentTimeMillis() - begin < LIMIT_MS
            && (count.get() < expected || System.currentTimeMillis() - last.get() < QUIET_MS)) {
            Thread.sleep(50);
        }
        consumer.shutdown();
        try (BufferedWriter out = Files.newBufferedWriter(file, StandardCharsets.UTF_8)) {
            synchronized (written) {
                for (String line : written) {
                    out.write(line);
                    out.write('\n');
                }
            }
        }
        System.out.println("received " + count.get() + " lines in " + (last.get() - begin) + " ms");
    }
}
