import java.time.Duration;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * A consumer as the documentation of Kafka's client writes it, which knows nothing of mq: it waits for each record, and commits by itself,
 * every five seconds. On SIGTERM it leaves the group properly.
 *
 * Arguments: bootstrap, group, topic, wait in ms.
 */
class PlainConsumer {
    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        properties.put("group.id", arguments[1]);
        properties.put("auto.offset.reset", "earliest");
        // Half a second of work: commits and rebalances happen between two polls.
        properties.put("max.poll.records", "10");
        long wait = Long.parseLong(arguments[3]);
        KafkaConsumer<byte[], byte[]> consumer =
            new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
        Thread main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
        try (consumer) {
            consumer.subscribe(List.of(arguments[2]));
            while (true) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    Thread.sleep(wait);
                }
            }
        } catch (org.apache.kafka.common.errors.WakeupException ending) {
            System.err.println("leaving the group");
        }
    }
}
