use super::*;

const EXAMPLE: &str = include_str!("../../../packaging/lastmile.toml");

fn refused(text: &str) -> String {
    Config::parse(text, Path::new("test.toml"))
        .expect_err("must be refused")
        .to_string()
}

/// `section.key` of every value in a TOML table.
fn keys(table: &toml::Table, prefix: &str) -> Vec<String> {
    table
        .iter()
        .flat_map(|(key, value)| match value {
            toml::Value::Table(inner) => keys(inner, &format!("{prefix}{key}.")),
            _ => vec![format!("{prefix}{key}")],
        })
        .collect()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(Config::parse("", Path::new("x")), Ok(Config::default()));
}

#[test]
fn the_example_parses_and_equals_the_defaults() {
    let mut example = Config::parse(EXAMPLE, Path::new("lastmile.toml")).expect("parses");
    // A key without a default that nearly everybody needs: the example uses it.
    assert_eq!(
        example.path.prefixes_csv.take(),
        Some("prefixes.csv".into())
    );
    assert_eq!(example, Config::default());
}

/// The example with every key in force: `#key = value` and `#[section]` show a key that has no
/// default, `# text` is a comment.
fn whole_example() -> String {
    EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => key,
            _ => line,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn the_example_shows_every_key() {
    let example = Config::parse(&whole_example(), Path::new("lastmile.toml")).expect("parses");
    let full = toml::Table::try_from(&example).expect("serializes");
    let shown: toml::Table = toml::from_str(&whole_example()).expect("parses");
    assert_eq!(keys(&shown, ""), keys(&full, ""));
    // Nothing is left out because it is absent.
    let path = &example.path;
    assert!(path.prefixes_toml.is_some() && path.isp_names.is_some());
    assert!(path.bmp.listen.is_some() && path.history.file.is_some());
    assert!(path.ports.csv.is_some() && path.ports.prometheus.is_some());
    assert!(example.restart.bpf_directory.is_some() && example.restart.baselines.is_some());
    assert!(example.evidence.file.is_some());
    let experiment = path.experiment.as_ref().expect("one");
    assert!(experiment.dscp.is_some() && experiment.peer_asn.is_some());
    let rule = path.interconnect.first().expect("one");
    assert!(!rule.interface.is_empty() && !rule.next_hop.is_empty() && !rule.peer_asn.is_empty());
    assert!(!rule.peer_address.is_empty() && !rule.community.is_empty());
    assert!(!rule.router.is_empty() && rule.connectivity.is_some() && rule.site.is_some());
    assert!(rule.capacity_mbit_s.is_some() && !rule.risk_groups.is_empty() && rule.port.is_some());
}

#[test]
fn an_experiment_is_small_and_marks_something() {
    let right = "share = 0.05\nmark = 7\ninterconnect = \"b\"\n\
                 [[path.interconnect]]\nname = \"b\"\npeer_asn = 64999\n";
    let text = |of: &str| format!("[path.experiment]\n{of}");
    let config = Config::parse(&text(right), Path::new("x")).expect("right");
    let marking = config.path.experiment.expect("one").marking();
    assert_eq!((marking.mark, marking.traffic_class), (7, 0));
    for (from, to, said) in [
        ("share = 0.05", "share = 0.5", "at most 0.1"),
        ("share = 0.05", "share = -0.1", "at most 0.1"),
        ("mark = 7\n", "", "missing field `mark`"),
        ("mark = 7", "mark = 0", "a mark other than 0"),
        ("mark = 7", "mark = 7\ndscp = 64", "a DSCP of 2 to 63"),
        ("mark = 7", "mark = 7\ndscp = 8", "a DSCP of 2 to 63"),
        (
            "= \"b\"\n[[",
            "= \"\"\n[[",
            "the name of a [[path.interconnect]]",
        ),
        (
            "peer_asn = 64999\n",
            "connectivity = \"ix\"\n",
            "a peer_asn, or",
        ),
        ("share = 0.05\n", "", "missing field `share`"),
    ] {
        let text = refused(&text(&right.replace(from, to)));
        assert!(text.contains(said), "{to}: {text}");
    }
}

#[test]
fn a_rules_key_takes_one_value_or_a_list() {
    let text = "[[path.interconnect]]\nname = \"a\"\npeer_asn = 64999\nnext_hop = [\"192.0.2.1\", \"2001:db8::1\"]\n";
    let config = Config::parse(text, Path::new("x")).expect("right");
    let rule = &config.path.interconnect[0];
    assert_eq!(
        (rule.peer_asn.as_slice(), rule.next_hop.len()),
        (&[64_999][..], 2)
    );
    for (wrong, said) in [
        (
            "community = \"64500\"",
            "`64500` is no community: write one such as 64500:100",
        ),
        (
            "peer_asn = \"AS1\"",
            "invalid type: string \"AS1\", expected u32",
        ),
        ("next_hop = [\"x\"]", "invalid IP address syntax"),
        ("speed = 1", "unknown field `speed`, expected one of `name`"),
    ] {
        let text = refused(&format!("[[path.interconnect]]\nname = \"a\"\n{wrong}\n"));
        assert!(
            text.starts_with("test.toml:3:") && text.contains(said),
            "{text}"
        );
    }
}

#[test]
fn a_wrong_key_is_refused_at_its_place_with_the_right_ones() {
    let text = refused("[window]\nlenght_s = 5\n");
    assert!(
        text.starts_with("test.toml:2:1: unknown field `lenght_s`, expected `length_s`"),
        "{text}"
    );
    assert!(text.ends_with("2 | lenght_s = 5\n  | ^^^^^^^^"), "{text}");
}

#[test]
fn a_wrong_section_is_refused() {
    let text = refused("[windows]\nlength_s = 5\n");
    assert!(
        text.contains("test.toml:1:2: unknown field `windows`, expected one of `watch`"),
        "{text}"
    );
}

#[test]
fn a_value_out_of_range_is_refused_with_a_caret_under_it() {
    let text = refused("[watch]\nports = [443]\n\n[window]\nlength_s = 0 # always\n");
    assert_eq!(
        text,
        "test.toml:5:12: window.length_s must be 1 to 3600 s\n  |\n5 | length_s = 0 # always\n  |            ^"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused_with_a_caret_under_it() {
    let text = refused("[flows]\nmax = \"many\"\n");
    assert!(
        text.starts_with("test.toml:2:7: invalid type: string \"many\", expected u32"),
        "{text}"
    );
    assert!(text.ends_with("  |       ^^^^^^"), "{text}");
}

#[test]
fn a_wrong_destination_says_what_would_be_right() {
    let text = refused("[log]\ndestination = \"log.jsonl\"\n");
    assert!(
        text.starts_with("test.toml:2:15: `log.jsonl` is no log destination: write \"stdout\""),
        "{text}"
    );
}

#[test]
fn a_prometheus_that_cannot_be_asked_is_refused_with_a_caret_under_it() {
    let text = refused("[path.ports]\nprometheus = \"https://prometheus.example\"\n");
    assert!(
        text.starts_with("test.toml:2:14: `https://prometheus.example` needs TLS"),
        "{text}"
    );
    assert!(
        text.ends_with(&format!("  | {}{}", " ".repeat(13), "^".repeat(28))),
        "{text}"
    );
    for wrong in ["127.0.0.1:9090", "prometheus", "http://", "ftp://host", ""] {
        let text = refused(&format!("[path.ports]\nprometheus = \"{wrong}\"\n"));
        assert!(text.contains("is no URL of a Prometheus"), "{text}");
    }
}

#[test]
fn thresholds_cannot_be_scaled_until_they_name_on_nothing() {
    for wrong in [
        "[verdict]\nbad_share = 0.5",
        "[verdict]\nmin_prefixes_per_isp = 1",
        "[verdict]\nmin_chunks_per_prefix = 0",
        "[verdict]\nfalse_discovery_share = 0.5",
        "[baseline]\nmin_windows = 1",
        "[baseline]\nslot_windows = 1\nbest_slots = 2",
    ] {
        assert!(refused(wrong).contains("must be"), "{wrong}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let text = Config::load(Path::new("/nonexistent/lastmile.toml"))
        .expect_err("cannot be read")
        .to_string();
    assert!(
        text.starts_with("/nonexistent/lastmile.toml: cannot be read: No such file"),
        "{text}"
    );
}
