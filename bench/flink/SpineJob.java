import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.runtime.util.EnvironmentInformation;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/**
 * Runs the statements of a file, each ended by a semicolon at the end of its line, in one process with Flink's own small
 * cluster, and ends when the last INSERT has read all of its input. Settings come as `name=value` behind the file.
 */
public class SpineJob {
  public static void main(String[] arguments) throws Exception {
    if (arguments[0].equals("--version")) {
      System.out.println("flink " + EnvironmentInformation.getVersion());
      return;
    }
    Configuration settings = new Configuration();
    for (int i = 1; i < arguments.length; i++) {
      String[] setting = arguments[i].split("=", 2);
      settings.setString(setting[0], setting[1]);
    }
    TableEnvironment tables =
        TableEnvironment.create(
            EnvironmentSettings.newInstance().withConfiguration(settings).inStreamingMode().build());
    for (String statement : Files.readString(Path.of(arguments[0])).split(";\\s*\\n")) {
      if (!statement.isBlank()) {
        tables.executeSql(statement.trim()).await();
      }
    }
    // Threads of the small cluster would keep the process.
    System.exit(0);
  }
}
