//! A server over a real socket, as the scoring server's tests have one.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;

use super::*;

/// What came: each request's head and body.
type Requests = Vec<(String, Vec<u8>)>;

/// Answers each connection with the next of `answers`, and tells what it was asked.
fn serve(answers: Vec<Vec<u8>>) -> (String, thread::JoinHandle<Requests>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("an address");
    let handle = thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("accepts");
            let mut reader = BufReader::new(stream.try_clone().expect("clones"));
            let (mut head, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).expect("reads");
                if line.trim().is_empty() {
                    break;
                }
                let lower = line.to_ascii_lowercase();
                if let Some(value) = lower.strip_prefix("content-length:") {
                    length = value.trim().parse().expect("a number");
                }
                head.push_str(&lower);
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("reads");
            stream.write_all(&answer).expect("writes");
            asked.push((head, body));
        }
        asked
    });
    (format!("http://{address}"), handle)
}

fn answer(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn web() -> Web {
    Web::new(None, &Arc::default()).expect("a client").with_pause(Duration::from_millis(1))
}

#[test]
fn files_are_fetched_again_after_trouble_and_at_most_so_large() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("x");
    let (url, server) = serve(vec![answer(503, b""), answer(200, b"a,b\n"), answer(404, b""), answer(200, b"12345")]);
    let fetched = web().download(&format!("{url}/x?sig=secret"), &path, 4).expect("the second time");
    assert_eq!((fetched.size, std::fs::read(&path).expect("there")), (4, b"a,b\n".to_vec()));
    let error = web().download(&format!("{url}/x?sig=secret"), &path, 4).expect_err("there is none");
    assert_eq!(error.to_string(), format!("{url}/x cannot be fetched: the server answers 404"));
    assert!(error.next_step().contains("expired"), "{}", error.next_step());
    let error = web().download(&format!("{url}/x"), &path, 4).expect_err("too large");
    assert_eq!(error.to_string(), format!("{url}/x has more than 4 bytes"));
    assert!(server.join().expect("served")[0].0.starts_with("get /x?sig=secret "));
}

#[test]
fn results_are_sent_whole_with_their_length() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("part");
    std::fs::write(&path, "results").expect("writes");
    let (url, server) = serve(vec![answer(500, b""), answer(201, b""), answer(403, b"")]);
    web().upload(&path, &format!("{url}/out?sig=secret")).expect("the second time");
    let error = web().upload(&path, &format!("{url}/out?sig=secret")).expect_err("forbidden");
    assert!(error.to_string().ends_with("/out does not take the results: the server answers 403"), "{error}");
    let asked = server.join().expect("served");
    for (head, body) in &asked[..2] {
        assert!(head.starts_with("put /out?sig=secret "), "{head}");
        assert!(head.contains("content-length: 7\r\n") && !head.contains("chunked"), "{head}");
        assert_eq!(body, b"results");
    }
}

#[test]
fn azure_is_told_which_kind_of_blob() {
    let table = [
        ("https://a.blob.core.windows.net/c/x?sig=1", true),
        ("https://A.Blob.Core.Windows.net:443/c/x", true),
        ("https://s3.amazonaws.com/a.blob.core.windows.net", false),
        ("https://blob.core.windows.net.evil/c", false),
    ];
    for (url, want) in table {
        assert_eq!(is_azure(url), want, "{url}");
    }
}

#[test]
fn a_server_that_is_not_there_is_told_after_the_last_try() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let url = format!("http://{}/x?sig=secret", listener.local_addr().expect("an address"));
    drop(listener);
    let dir = tempfile::tempdir().expect("temp dir");
    let error = web().download(&url, &dir.path().join("x"), 4).expect_err("nobody is there");
    assert!(error.to_string().contains("tried 5 times") && !error.to_string().contains("secret"), "{error}");
}
