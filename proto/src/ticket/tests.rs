use std::time::Duration;

use super::*;

/// The ticket of [`claims`] in region `eu` under key 1.
const KNOWN: &str = "0001fa15b87b276e7ec3f7f2b9f3c4b7043b";

fn installation() -> InstallationId {
    "6b0f4f6a-7e57-4c1e-9a52-0d6f4b1c2a33".parse().unwrap()
}

fn key(id: KeyId) -> Key {
    Key { id, secret: vec![id.to_be_bytes()[1]; 32], retired_at: None, is_usable: true }
}

fn tickets(keys: &[Key]) -> Tickets {
    Tickets::new(installation(), true, keys)
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_795_176_000_000 + seconds * 1_000)
}

fn claims(region: &Region) -> Claims<'_> {
    Claims {
        site: SiteId(42),
        shard: Shard(7),
        region,
        kind: Kind::Scheduled,
        scheduled_at: moment(0),
        expires_at: moment(60),
    }
}

#[test]
fn a_ticket_is_good_for_its_own_check_and_for_no_other() {
    let (eu, us): (Region, Region) = ("eu".parse().unwrap(), "us".parse().unwrap());
    let tickets = tickets(&[key(1)]);
    let given = claims(&eu);
    let ticket = tickets.ticket(&given).unwrap().to_string();

    assert_eq!(tickets.verify(Some(&ticket), &given), Ok(()));
    for other in [
        Claims { site: SiteId(43), ..given },
        Claims { shard: Shard(8), ..given },
        Claims { region: &us, ..given },
        Claims { kind: Kind::Confirm, ..given },
        Claims { scheduled_at: moment(1), ..given },
        Claims { expires_at: moment(61), ..given },
    ] {
        assert_eq!(tickets.verify(Some(&ticket), &other), Err(Refusal::False), "{other:?}");
    }
    let elsewhere = Tickets::new("00000000-0000-4000-8000-000000000000".parse().unwrap(), true, &[key(1)]);
    assert_eq!(elsewhere.verify(Some(&ticket), &given), Err(Refusal::False));
}

#[test]
fn a_ticket_of_any_other_digits_is_refused() {
    let eu: Region = "eu".parse().unwrap();
    let tickets = tickets(&[key(1)]);
    let ticket = tickets.ticket(&claims(&eu)).unwrap().to_string();

    for place in 0..ticket.len() {
        let mut other = ticket.clone().into_bytes();
        other[place] = if other[place] == b'0' { b'1' } else { b'0' };
        let other = String::from_utf8(other).unwrap();
        assert!(tickets.verify(Some(&other), &claims(&eu)).is_err(), "{other}");
    }
    for other in ["", "x", &ticket[1..], &ticket.to_uppercase(), &format!("{ticket}0"), &"é".repeat(18)] {
        assert_eq!(tickets.verify(Some(other), &claims(&eu)), Err(Refusal::Malformed), "{other}");
    }
}

#[test]
fn the_same_check_has_the_same_ticket_and_every_process_computes_it() {
    let eu: Region = "eu".parse().unwrap();
    let one = tickets(&[key(1)]).ticket(&claims(&eu)).unwrap();

    assert_eq!(tickets(&[key(1)]).ticket(&claims(&eu)).unwrap(), one);
    // From HMAC-SHA256 of the documented encoding, computed with another implementation.
    assert_eq!(one.to_string(), KNOWN);
}

#[test]
fn a_new_key_is_used_when_every_process_knows_it_and_tickets_of_the_old_one_stay_good_until_it_is_retired() {
    let eu: Region = "eu".parse().unwrap();
    let first = tickets(&[key(1)]).ticket(&claims(&eu)).unwrap().to_string();
    let fresh = Key { is_usable: false, ..key(2) };

    let both = tickets(&[key(1), fresh]);
    assert_eq!(both.ticket(&claims(&eu)).unwrap().to_string(), first);
    let both = tickets(&[key(1), key(2)]);
    let second = both.ticket(&claims(&eu)).unwrap().to_string();
    assert_ne!(second, first);
    assert_eq!(both.verify(Some(&first), &claims(&eu)), Ok(()));

    let retired = |at| Key { retired_at: Some(at), is_usable: false, ..key(1) };
    let later = tickets(&[retired(moment(0)), key(2)]);
    assert_eq!(later.verify(Some(&first), &claims(&eu)), Ok(()));
    let earlier = tickets(&[retired(moment(0).minus(Duration::from_secs(1))), key(2)]);
    assert_eq!(earlier.verify(Some(&first), &claims(&eu)), Err(Refusal::Retired(1)));
    assert_eq!(tickets(&[key(2)]).verify(Some(&first), &claims(&eu)), Err(Refusal::UnknownKey(1)));
}

#[test]
fn a_result_without_a_ticket_is_refused_only_where_tickets_are_required() {
    let eu: Region = "eu".parse().unwrap();
    let optional = Tickets::new(installation(), false, &[key(1)]);

    assert_eq!(tickets(&[key(1)]).verify(None, &claims(&eu)), Err(Refusal::Absent));
    assert_eq!(optional.verify(None, &claims(&eu)), Ok(()));
    let forged = Ticket { key: 1, mac: [0; Ticket::MAC_BYTES] }.to_string();
    assert_eq!(optional.verify(Some(&forged), &claims(&eu)), Err(Refusal::False));
    assert_eq!(Tickets::new(installation(), true, &[]).ticket(&claims(&eu)), None);
}

/// Prints what a ticket costs: `cargo test --release -p picket-proto -- --ignored --nocapture what_a_ticket_costs`.
#[test]
#[ignore = "a measurement"]
fn what_a_ticket_costs() {
    const NUMBER: u32 = 1_000_000;
    let region: Region = "eu-west".parse().unwrap();
    let tickets = tickets(&[key(1)]);
    let mut text = String::new();
    let measure = |what: &str, work: &mut dyn FnMut(i64)| {
        #[expect(clippy::disallowed_methods, reason = "no async here, and a measurement")]
        let began = std::time::Instant::now();
        (0..i64::from(NUMBER)).for_each(work);
        eprintln!("{what}: {} ns", (began.elapsed() / NUMBER).as_nanos());
    };
    measure("render", &mut |site| {
        text.clear();
        tickets.render(&Claims { site: SiteId(site), ..claims(&region) }, &mut text);
        std::hint::black_box(&text);
    });
    let ticket = tickets.ticket(&claims(&region)).unwrap().to_string();
    measure("verify", &mut |_| {
        std::hint::black_box(tickets.verify(Some(&ticket), &claims(&region))).unwrap();
    });
}
