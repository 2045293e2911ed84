import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.lang.management.ManagementFactory;
import java.util.List;
import java.util.Properties;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads a topic with Confluent's Parallel Consumer, key-ordered, with a handler that waits, and prints what the time from the first
 * record to the last one cost: wall and CPU nanoseconds of the process. A first, shorter reading by another group warms the JVM up.
 *
 * Arguments: bootstrap, topic, records, maxConcurrency, wait in ms.
 */
class ParallelConsumer {
    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0], topic = arguments[1];
        int records = Integer.parseInt(arguments[2]), concurrency = Integer.parseInt(arguments[3]);
        long wait = Long.parseLong(arguments[4]);
        read(bootstrap, topic, records / 5, concurrency, wait);
        long[] cost = read(bootstrap, topic, records, concurrency, wait);
        System.out.println(cost[0] + " " + cost[1]);
        System.exit(0);
    }

    static long[] read(String bootstrap, String topic, int records, int concurrency, long wait) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.put("group.id", "peer-" + UUID.randomUUID());
        properties.put("auto.offset.reset", "earliest");
        properties.put("enable.auto.commit", "false");
        var options = ParallelConsumerOptions.<byte[], byte[]>builder()
            .consumer(new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer()))
            .ordering(ProcessingOrder.KEY)
            .maxConcurrency(concurrency)
            .build();
        var processor = ParallelStreamProcessor.createEosStreamProcessor(options);
        AtomicLong handled = new AtomicLong();
        CountDownLatch last = new CountDownLatch(1);
        long[] from = new long[2];
        processor.subscribe(List.of(topic));
        processor.poll(context -> {
            if (wait > 0) {
                sleep(wait);
            }
            long count = handled.incrementAndGet();
            if (count == 1) {
                from[0] = System.nanoTime();
                from[1] = cpu();
            } else if (count == records) {
                last.countDown();
            }
        });
        if (!last.await(10, TimeUnit.MINUTES)) {
            throw new IllegalStateException(handled.get() + " of " + records + " records were handled in 10 minutes");
        }
        long[] cost = {System.nanoTime() - from[0], cpu() - from[1]};
        processor.closeDontDrainFirst();
        return cost;
    }

    static void sleep(long milliseconds) {
        try {
            Thread.sleep(milliseconds);
        } catch (InterruptedException interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    static long cpu() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }
}
