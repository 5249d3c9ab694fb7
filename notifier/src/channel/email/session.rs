//! An SMTP session: login, and one transaction for each recipient.

use std::{error::Error as _, time::Duration};

use lettre::{
    Address,
    transport::smtp::{
        Error as SmtpError,
        authentication::{Credentials, DEFAULT_MECHANISMS},
        client::AsyncSmtpConnection,
        commands::{Data, Mail, Rcpt, Rset},
        response::Response,
    },
};
use picket_runtime::secrets::SecretValue;
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::{EmailSender, connection, failure::Failure, progress::RecipientEnd, settings::EmailSettings};

/// How far a transaction has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Sender,
    Recipient,
    Data,
    Content,
}

/// A session, logged in.
pub(super) struct Session {
    smtp: AsyncSmtpConnection,
    stage: Stage,
    is_usable: bool,
}

impl Session {
    /// Connects and logs in. The caller limits the time.
    pub(super) async fn open(sender: &EmailSender, settings: &EmailSettings) -> Result<Self, Failure> {
        let server = settings.server_name().to_string();
        let connection = connection::connect(sender, settings).await?;
        let is_encrypted = connection.stream.is_encrypted();
        let greeted =
            AsyncSmtpConnection::connect_with_transport(Box::new(connection.stream), &connection.client_id)
                .await;
        let mut smtp = greeted.map_err(|error| Failure::of_smtp(&error, &server))?;
        if let Some(user) = &settings.user {
            if !is_encrypted {
                return Err(Failure::of_channel("a password is never sent without TLS"));
            }
            let password = find_password(sender, settings)?;
            let credentials = Credentials::new(user.clone(), password.expose_text().to_owned());
            smtp.auth(DEFAULT_MECHANISMS, &credentials)
                .await
                .map_err(|error| explain_login_failure(&error, &server, user))?;
        }
        Ok(Self { smtp, stage: Stage::Sender, is_usable: true })
    }

    /// Returns true if another transaction can follow.
    pub(super) fn is_usable(&self) -> bool {
        self.is_usable
    }

    /// Sends `mail` to one recipient until `deadline`.
    pub(super) async fn send_to(
        &mut self,
        from: &Address,
        to: &Address,
        mail: &[u8],
        deadline: Instant,
    ) -> RecipientEnd {
        let finished = timeout_at(deadline, self.run_transaction(from, to, mail)).await;
        let error = match finished {
            Ok(Ok(answer)) => {
                let text = answer.message().collect::<Vec<_>>().join(" ");
                return RecipientEnd::Delivered { code: answer.code().into(), text };
            }
            Ok(Err(error)) => Some(error),
            Err(_) => None,
        };
        let code = error.as_ref().and_then(SmtpError::status).map(u16::from);
        // After 421 the server closes the connection; without an answer its state is unknown.
        self.is_usable = match code {
            None | Some(421) => false,
            Some(_) => matches!(timeout_at(deadline, self.smtp.command(Rset)).await, Ok(Ok(_))),
        };
        let text = match &error {
            Some(error) => error.source().map_or_else(|| error.to_string(), ToString::to_string),
            None => "no answer in time".to_owned(),
        };
        judge_failure(self.stage, code, text)
    }

    async fn run_transaction(
        &mut self,
        from: &Address,
        to: &Address,
        mail: &[u8],
    ) -> Result<Response, SmtpError> {
        self.stage = Stage::Sender;
        self.smtp.command(Mail::new(Some(from.clone()), Vec::new())).await?;
        self.stage = Stage::Recipient;
        self.smtp.command(Rcpt::new(to.clone(), Vec::new())).await?;
        self.stage = Stage::Data;
        self.smtp.command(Data).await?;
        self.stage = Stage::Content;
        self.smtp.message(mail).await
    }

    /// Says goodbye. The messages are accepted already, so the answer is of no consequence.
    pub(super) async fn quit(mut self, limit: Duration) {
        let _ = timeout(limit, self.smtp.quit()).await;
    }
}

/// What a failure at a stage means for the recipient. `code` is absent without an answer.
fn judge_failure(stage: Stage, code: Option<u16>, text: String) -> RecipientEnd {
    let is_permanent = code.is_some_and(|code| (500..600).contains(&code));
    // Codes of RFC 4954: the server wants a login, or another one, whoever the recipient is.
    let wants_login = matches!(code, Some(530 | 534 | 535 | 538));
    match (stage, code) {
        (Stage::Sender, Some(refusal)) if is_permanent => RecipientEnd::SenderRefused(Failure {
            code,
            text: format!("the server refuses the sender: {refusal} {text}"),
            is_channel_failing: true,
        }),
        (_, Some(refusal)) if wants_login => RecipientEnd::SenderRefused(Failure {
            code,
            text: format!("the server demands a login: {refusal} {text}"),
            is_channel_failing: true,
        }),
        (_, Some(code)) if is_permanent => RecipientEnd::Refused { code, text },
        (Stage::Content, None) => RecipientEnd::Unknown { text },
        (_, code) => RecipientEnd::Deferred { code, text },
    }
}

fn find_password(sender: &EmailSender, settings: &EmailSettings) -> Result<SecretValue, Failure> {
    let unavailable = |why: &dyn std::fmt::Display| Failure::of_channel(&why.to_string());
    let Some(password) = &settings.password else {
        return Err(Failure::of_channel("there is a user, and no password"));
    };
    let host = settings.parse_host().map_err(|why| unavailable(&why))?;
    // Rules of hosts are rules of https URLs; another port than 443 must be in the rule.
    let url = Url::parse(&format!("https://{host}:{}/", settings.port())).map_err(|why| unavailable(&why))?;
    sender.secrets.value_for(&password.secret, &url, true).map_err(|why| unavailable(&why))
}

fn explain_login_failure(error: &SmtpError, server: &str, user: &str) -> Failure {
    let failure = Failure::of_smtp(error, &format!("{server} does not let user '{user}' log in"));
    // Without an answer with a code, the server offers no known way to log in, or the network failed.
    match error.is_client() {
        true => Failure { is_channel_failing: true, ..failure },
        false => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_permanent_answer_about_the_recipient_or_the_message_is_final() {
        let judge = |stage, code| judge_failure(stage, code, "why".to_owned());
        let is_refused = |end| matches!(end, RecipientEnd::Refused { .. });
        let is_deferred = |end| matches!(end, RecipientEnd::Deferred { .. });

        assert!(is_refused(judge(Stage::Recipient, Some(550))));
        assert!(is_refused(judge(Stage::Content, Some(554))));
        assert!(is_deferred(judge(Stage::Recipient, Some(450))));
        assert!(is_deferred(judge(Stage::Sender, Some(451))));
        assert!(is_deferred(judge(Stage::Recipient, None)));
        assert!(matches!(judge(Stage::Content, None), RecipientEnd::Unknown { .. }));
        for (stage, code) in [(Stage::Sender, 550), (Stage::Recipient, 530), (Stage::Data, 535)] {
            let failure = judge(stage, Some(code)).concerns_all().unwrap();
            assert!(failure.is_channel_failing && failure.text.contains("why"), "{failure:?}");
        }
    }
}
