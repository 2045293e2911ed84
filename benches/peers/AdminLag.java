import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Semaphore;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.ListConsumerGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/**
 * Asks for the committed offsets of all groups in one call and for the end of all partitions in another, and again for each line that it is
 * given. Answers with the nanoseconds that it took and the sum of all lags.
 *
 * Arguments: bootstrap, prefix of the names, topics, groups; `prepare` makes topics and offsets instead.
 */
class AdminLag {
    static final int PARTITIONS = 8;

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        String prefix = arguments[1];
        int topics = Integer.parseInt(arguments[2]), groups = Integer.parseInt(arguments[3]);
        try (Admin admin = Admin.create(properties)) {
            if (arguments.length > 4) {
                prepare(admin, prefix, topics, groups);
                return;
            }
            var lines = new BufferedReader(new InputStreamReader(System.in));
            do {
                long started = System.nanoTime();
                long lag = lag(admin, prefix, topics, groups);
                System.out.println((System.nanoTime() - started) + " " + lag);
            } while (lines.readLine() != null);
        }
    }

    static long lag(Admin admin, String prefix, int topics, int groups) throws Exception {
        Map<String, ListConsumerGroupOffsetsSpec> specs = new HashMap<>();
        for (int n = 0; n < groups; n++) {
            specs.put(prefix + "-group-" + n, new ListConsumerGroupOffsetsSpec());
        }
        var committed = admin.listConsumerGroupOffsets(specs).all().get();
        Map<TopicPartition, OffsetSpec> ends = new HashMap<>();
        for (int topic = 0; topic < topics; topic++) {
            for (int partition = 0; partition < PARTITIONS; partition++) {
                ends.put(new TopicPartition(prefix + "-topic-" + topic, partition), OffsetSpec.latest());
            }
        }
        var found = admin.listOffsets(ends).all().get();
        long sum = 0;
        for (var group : committed.values()) {
            for (var offset : group.entrySet()) {
                sum += found.get(offset.getKey()).offset() - offset.getValue().offset();
            }
        }
        return sum;
    }

    /** Partition p of group n has committed (n + p) % 11. */
    static void prepare(Admin admin, String prefix, int topics, int groups) throws Exception {
        List<NewTopic> all = new ArrayList<>();
        for (int n = 0; n < topics; n++) {
            all.add(new NewTopic(prefix + "-topic-" + n, PARTITIONS, (short) 1));
        }
        admin.createTopics(all).all().get();
        Semaphore atOnce = new Semaphore(100);
        for (int n = 0; n < groups; n++) {
            Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
            for (int partition = 0; partition < PARTITIONS; partition++) {
                var of = new TopicPartition(prefix + "-topic-" + n % topics, partition);
                offsets.put(of, new OffsetAndMetadata((n + partition) % 11));
            }
            atOnce.acquire();
            admin.alterConsumerGroupOffsets(prefix + "-group-" + n, offsets).all().whenComplete((done, error) -> {
                atOnce.release();
                if (error != null) {
                    error.printStackTrace();
                    System.exit(1);
                }
            });
        }
        atOnce.acquire(100);
        System.out.println("0 0");
    }
}
