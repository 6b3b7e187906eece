//! `mainstay schedule next`, through the real binary.

use std::process::{Command, Output};

use expect_test::expect;

fn next(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_mainstay")).args(["schedule", "next"]).args(arguments).output().unwrap()
}

fn shown(arguments: &[&str]) -> String {
    let output = next(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn json_is_in_utc() {
    let arguments = ["0 2 * * *", "--from", "2026-11-21T12:00:00Z", "--count", "2", "-o", "json"];
    expect![[r#"
        {"formatVersion":1,"next":["2026-11-22T02:00:00Z","2026-11-23T02:00:00Z"]}
    "#]]
    .assert_eq(&shown(&arguments));
}

#[test]
fn text_says_what_a_change_of_clocks_does() {
    let berlin = |from| shown(&["30 2 * * *", "--time-zone", "Europe/Berlin", "--from", from, "--count", "2"]);
    expect![[r#"
        Sun 2026-03-29 03:00:00 +02:00 CEST  2026-03-29T01:00:00Z  (the clock skips a time that is asked for on this day)
        Mon 2026-03-30 02:30:00 +02:00 CEST  2026-03-30T00:30:00Z
    "#]]
    .assert_eq(&berlin("2026-03-28T12:00:00Z"));
    expect![[r#"
        Sun 2026-10-25 02:30:00 +02:00 CEST  2026-10-25T00:30:00Z  (the clock shows a time that is asked for twice on this day)
        Mon 2026-10-26 02:30:00 +01:00 CET  2026-10-26T01:30:00Z
    "#]]
    .assert_eq(&berlin("2026-10-24T12:00"));
}

#[test]
fn wrong_input_says_what_to_do() {
    for (arguments, part) in [
        (&["0 2 31 2 *"][..], "is never due"),
        (&["0 0 2 * * *"], "no field for seconds"),
        (&["@daily", "--time-zone", "Europe/Berlni"], "did you mean `Europe/Berlin`?"),
        (&["@daily", "--time-zone", "zzz"], "write an IANA name"),
        (&["@daily", "--from", "yesterday"], "`yesterday` is not a time"),
        (&["@daily", "--count", "0"], "0 is not in 1..=1000"),
    ] {
        let output = next(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && output.stdout.is_empty() && text.contains(part), "{arguments:?}: {text}");
    }
}

/// A host or image without tzdata falls back to these.
#[test]
fn zones_are_in_the_program() {
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    for zone in ["Europe/Berlin", "America/New_York", "Pacific/Apia"] {
        assert!(bundled.get(zone).is_ok(), "{zone}");
    }
}
