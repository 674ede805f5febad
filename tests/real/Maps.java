import java.io.RandomAccessFile;
import java.nio.MappedByteBuffer;
import java.nio.channels.FileChannel;

/** Threads store to a mapped file of so many MiB each, beside collections of garbage and null checks by SIGSEGV. */
public class Maps {
    static volatile int failed;

    static void work(int number, int size) {
        try (RandomAccessFile file = new RandomAccessFile("/dev/shm/java" + number, "rw")) {
            file.setLength(size);
            MappedByteBuffer memory = file.getChannel().map(FileChannel.MapMode.READ_WRITE, 0, size);
            for (int at = 0; at < size; at += 4096) memory.put(at, (byte) 1);
        } catch (Throwable thrown) { // an InternalError, of a SIGBUS
            failed = 3;
        }
    }

    public static void main(String[] arguments) throws Exception {
        int size = Integer.parseInt(arguments[0]) << 20;
        Thread[] threads = new Thread[Integer.parseInt(arguments[1])];
        for (int number = 0; number < threads.length; number++) {
            int mine = number;
            threads[number] = new Thread(() -> work(mine, size));
            threads[number].start();
        }
        String none = arguments.length > 5 ? "" : null;
        int nulls = 0;
        for (int turn = 0; turn < 100_000; turn++) {
            try { none.length(); } catch (NullPointerException thrown) { nulls++; }
            if (turn % 10_000 == 0) System.gc();
        }
        for (Thread thread : threads) thread.join();
        System.exit(nulls == 100_000 ? failed : 4);
    }
}
