//! Servers without a proof of their name, networks that remove the encryption, and servers that
//! stall or never end.

use std::{future::Future, net::Ipv4Addr};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;

/// Serves each connection by `serve` on a free port.
async fn listen<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> u16
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    port
}

/// A party on the way to a mail server that passes each line of the server to `change`.
async fn listen_in_between(backend: u16, change: fn(&str) -> String) -> u16 {
    listen(move |client| async move {
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, backend)).await.unwrap();
        let (from_server, mut to_server) = server.into_split();
        let (mut from_client, mut to_client) = client.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let mut lines = BufReader::new(from_server).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if to_client.write_all(change(&line).as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_server_with_the_certificate_of_another_host_gets_nothing() {
    for (tls, security) in [(MailTls::Starttls, "starttls"), (MailTls::Implicit, "implicit")] {
        let (identity, ca_file) = issue_for("mail.example.com");
        let server = MailServer::start(tls, &identity, Some((USER, PASSWORD)), MailAnswers::default()).await;
        let settings = with_login(settings_for(server.port(), security, Some(&ca_file)));

        let attempt = sender_for(server.port(), PASSWORD).deliver(&settings, &samples::down()).await;

        assert!(is_failing(&attempt));
        assert!(attempt.message.contains("so nothing was sent"), "{}", attempt.message);
        assert!(attempt.message.contains("mail.example.com"), "{}", attempt.message);
        assert!(server.mails().is_empty());
    }
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_gets_nothing_until_the_channel_names_the_authority() {
    let (identity, ca_file) = issue_for("localhost");
    let (_, other_ca_file) = issue_for("localhost");
    let server = MailServer::start(MailTls::Starttls, &identity, None, MailAnswers::default()).await;
    let sender = sender_for(server.port(), PASSWORD);
    let deliver = async |ca_file: Option<&str>| {
        sender.deliver(&settings_for(server.port(), "starttls", ca_file), &samples::down()).await
    };

    for ca_file in [None, Some(other_ca_file.as_str())] {
        let attempt = deliver(ca_file).await;
        assert!(is_failing(&attempt));
        assert!(attempt.message.contains("invalid peer certificate"), "{}", attempt.message);
    }
    let missing = deliver(Some("/nonexistent/ca.pem")).await;
    assert!(
        missing.message.contains("'/nonexistent/ca.pem' are unusable: No such file"),
        "{}",
        missing.message
    );
    assert!(server.mails().is_empty());
    let good = deliver(Some(&ca_file)).await;
    assert!(matches!(good.outcome, AttemptOutcome::Delivered { .. }), "{good:?}");
}

#[tokio::test]
async fn a_removed_offer_of_starttls_is_a_failure_and_never_plain_text() {
    let (identity, ca_file) = issue_for("localhost");
    let login = Some((USER, PASSWORD));
    let server = MailServer::start(MailTls::Starttls, &identity, login, MailAnswers::default()).await;
    let port = listen_in_between(server.port(), |line| match line {
        "250-STARTTLS" => String::new(),
        line => format!("{line}\r\n"),
    })
    .await;
    let settings = with_login(settings_for(port, "starttls", Some(&ca_file)));

    let attempt = sender_for(port, PASSWORD).deliver(&settings, &samples::down()).await;

    assert!(is_failing(&attempt));
    assert!(attempt.message.contains("does not offer STARTTLS, so nothing was sent"), "{}", attempt.message);
    assert!(server.mails().is_empty());
}

#[tokio::test]
async fn answers_that_are_slipped_in_before_tls_are_not_taken_for_the_servers() {
    let (identity, ca_file) = issue_for("localhost");
    let server = MailServer::start(MailTls::Starttls, &identity, None, MailAnswers::default()).await;
    let port = listen_in_between(server.port(), |line| match line {
        line if line.starts_with("220 Ready to start TLS") => {
            format!("{line}\r\n250-mail.test\r\n250 AUTH PLAIN\r\n250 2.0.0 accepted\r\n")
        }
        line => format!("{line}\r\n"),
    })
    .await;
    let settings = settings_for(port, "starttls", Some(&ca_file));

    let attempt = sender_for(port, PASSWORD).deliver(&settings, &samples::down()).await;

    assert!(is_failing(&attempt));
    assert!(attempt.message.contains("sent more than its answer to STARTTLS"), "{}", attempt.message);
}

#[tokio::test]
async fn a_private_address_is_refused_by_the_name_of_the_variable_that_allows_it() {
    let accepted = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&accepted);
    let port = listen(move |_| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        async {}
    })
    .await;
    let sender =
        EmailSender::new(Secrets::none(), AddressPolicy::default(), Arc::new(RootCertStore::empty()));
    for host in ["localhost", "127.0.0.1", "::1", "[::ffff:127.0.0.1]", "2130706433"] {
        let settings = EmailSettings { host: host.to_owned(), ..settings_for(port, "none", None) };
        settings.check().unwrap();
        let attempt = sender.deliver(&settings, &samples::down()).await;
        assert!(is_failing(&attempt), "{host}");
        assert!(attempt.message.contains("PICKET_NOTIFY_ALLOW_ADDRESSES"), "{host}: {}", attempt.message);
    }
    assert_eq!(accepted.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_silent_server_costs_a_third_of_the_time_and_all_recipients_wait() {
    let port = listen(|mut stream| async move {
        // Until the client gives up.
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    })
    .await;
    for security in ["none", "starttls", "implicit"] {
        let settings = EmailSettings { timeout_ms: Some(4_500), ..settings_for(port, security, None) };
        let started = Instant::now();
        let attempt = sender_for(port, PASSWORD).deliver(&settings, &samples::down()).await;
        assert!(!is_failing(&attempt));
        assert!(
            attempt.message.contains("does not answer in time; delivered to 0 of 3"),
            "{}",
            attempt.message
        );
        assert!(started.elapsed() < Duration::from_millis(4_500), "{:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_server_that_never_ends_a_line_is_cut_off() {
    let port =
        listen(|mut stream| async move { while stream.write_all(&[b'2'; 4096]).await.is_ok() {} }).await;
    for (security, why) in [("none", "sends too much"), ("starttls", "too long an answer")] {
        let settings = settings_for(port, security, None);
        let attempt = sender_for(port, PASSWORD).deliver(&settings, &samples::down()).await;
        assert!(attempt.message.contains(why), "{security}: {}", attempt.message);
    }
}

#[tokio::test]
async fn a_server_that_hangs_up_after_each_message_gets_all_of_them() {
    let (identity, _) = issue_for("localhost");
    let server = MailServer::start(MailTls::None, &identity, None, MailAnswers::default()).await;
    let port = listen_in_between(server.port(), |line| match line {
        "250 2.0.0 accepted" => "421 4.3.2 going down\r\n".to_owned(),
        line => format!("{line}\r\n"),
    })
    .await;
    let settings = settings_for(port, "none", None);

    let attempt = sender_for(port, PASSWORD).deliver(&settings, &samples::down()).await;

    assert!(!is_failing(&attempt));
    assert_eq!(attempt.status, Some(421));
    assert_eq!(server.mails().len(), 3);
}
