import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;

/**
 * {@code java Photos.java URL FILE...}: sends each photo as Java's own HTTP client does by default (it asks for HTTP/2 by
 * an Upgrade, with the body), with {@code Expect: 100-continue}, and in chunks; prints a line an answer.
 */
class Photos {
    public static void main(String[] arguments) throws Exception {
        for (int at = 1; at < arguments.length; at++) {
            Path photo = Path.of(arguments[at]);
            byte[] bytes = Files.readAllBytes(photo);
            send("default", request(arguments[0], bytes));
            send("expect", request(arguments[0], bytes).expectContinue(true));
            // A stream says no length.
            send("chunked", builder(arguments[0])
                .POST(BodyPublishers.ofInputStream(() -> new java.io.ByteArrayInputStream(bytes))));
        }
    }

    static HttpRequest.Builder builder(String url) {
        return HttpRequest.newBuilder(URI.create(url)).timeout(Duration.ofSeconds(20)).header("Content-Type", "image/png");
    }

    static HttpRequest.Builder request(String url, byte[] bytes) {
        return builder(url).POST(BodyPublishers.ofByteArray(bytes));
    }

    static void send(String how, HttpRequest.Builder request) throws InterruptedException {
        String said;
        try {
            // A client of its own: an answer must not depend on the connection before.
            var answer = HttpClient.newHttpClient().send(request.build(), BodyHandlers.ofString());
            said = answer.statusCode() + " " + answer.body();
        } catch (java.io.IOException error) {
            said = error.toString();
        }
        System.out.println(how + " " + said.replace("\n", " "));
    }
}
