import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HexFormat;
import java.util.StringJoiner;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;

/**
 * Where Java's producer puts a record: for each line with a key in hexadecimal digits a line of partitions, one for each number of
 * partitions that is given as an argument.
 */
class Partitions {
    public static void main(String[] counts) throws Exception {
        var keys = new BufferedReader(new InputStreamReader(System.in));
        for (String key; (key = keys.readLine()) != null; ) {
            byte[] bytes = HexFormat.of().parseHex(key);
            var partitions = new StringJoiner(" ");
            for (String count : counts) {
                partitions.add(Integer.toString(BuiltInPartitioner.partitionForKey(bytes, Integer.parseInt(count))));
            }
            System.out.println(partitions);
        }
    }
}
