use super::*;

struct Owned {
    device: DeviceId,
    labels: BTreeMap<String, String>,
    groups: BTreeSet<GroupName>,
}

impl Owned {
    fn new() -> Self {
        let label = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        Self {
            device: "gw-00017".parse().unwrap(),
            labels: [("site", "paris"), ("line", "7"), ("rack/row", "b 2"), ("name", "Über")].map(label).into(),
            groups: ["beta", "site-paris"].map(|name| name.parse().unwrap()).into(),
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            device: &self.device,
            labels: &self.labels,
            groups: &self.groups,
            arch: "aarch64",
            os: "linux",
            agent: "0.4.1",
            engine: "tract",
            engine_version: "0.23.9",
            memory_bytes: 2 << 30,
            disk_bytes: u64::MAX,
            online: false,
            site: "paris-1",
        }
    }
}

fn matches(text: &str) -> Match {
    let owned = Owned::new();
    let selector = Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    let found = selector.matches(&owned.facts());
    assert_eq!(selector.selects(&owned.facts()), found == Match::Yes, "{text}");
    found
}

fn refused(text: &str) -> String {
    Selector::parse(text).map(|_| ()).expect_err(text).to_string()
}

#[test]
fn conditions_that_hold() {
    for text in [
        "true",
        "labels.site == \"paris\" && memory_bytes >= 2 * 1024 * 1024 * 1024",
        "arch in [\"aarch64\", \"x86_64\"] && \"beta\" in groups && device.startsWith(\"gw-\")",
        "has(labels.line) && labels.line != \"8\"",
        "labels['rack/row'] == 'b 2' && 'rack/row' in labels && !('none' in labels)",
        "labels.name == \"Über\" && labels.name.size() == 4",
        "os == 'linux' && agent == '0.4.1' && engine == 'tract' && engine_version.startsWith('0.23.')",
        "!online && site == 'paris-1'",
        "disk_bytes == 9223372036854775807",
        "int(labels.line) > 6 && string(memory_bytes).endsWith('48')",
        "groups.exists(g, g.startsWith('site-')) && groups.all(g, g != 'gamma')",
        "groups.exists_one(g, g == 'beta') && size(groups) == 2 && groups[0] == 'beta'",
        "groups.filter(g, g.contains('-')) == ['site-paris'] && groups.map(g, size(g)) == [4, 10]",
        "['x', 'gw'].exists(p, device.startsWith(p)) && ['beta'].all(g, g in groups)",
        "size(labels) == 4 && (online ? false : true) && groups != []",
        "labels.none == 'x' || arch == 'aarch64'",
        "arch == 'aarch64' || labels.none == 'x'",
        "!(has(labels.none) && labels.none == 'x')",
        "groups + ['x'] == ['beta', 'site-paris', 'x'] && device + '!' == 'gw-00017!'",
        "  arch\n== 'aarch64'\t&& true ",
        "\"a && b || (\\\"\" != ')' && 'it\\'s' != \"\"",
    ] {
        assert_eq!(matches(text), Match::Yes, "{text}");
    }
}

#[test]
fn a_condition_that_fails_says_what_the_device_has() {
    for (text, wanted) in [
        ("labels.site == \"berlin\"", "labels.site == \"berlin\" is false: labels.site is \"paris\""),
        ("arch == 'aarch64' && os == 'qnx' && online", "os == 'qnx' is false: os is \"linux\""),
        ("arch == 'aarch64' && online", "online is false"),
        ("!(\"beta\" in groups)", "!(\"beta\" in groups) is false: groups has \"beta\", \"site-paris\""),
        ("has(labels.none)", "label `none` is missing"),
        ("!has(labels.line)", "!has(labels.line) is false: labels.line is \"7\""),
        ("'none' in labels", "'none' in labels is false: label `none` is missing"),
        ("size(labels) == 0", "size(labels) == 0 is false: labels has \"line\", \"name\", \"rack/row\", \"site\""),
        ("labels['rack/row'] == ''", "labels['rack/row'] == '' is false: labels[\"rack/row\"] is \"b 2\""),
        (
            "memory_bytes >= 4 * 1024 * 1024 * 1024",
            "memory_bytes >= 4 * 1024 * 1024 * 1024 is false: memory_bytes is 2147483648",
        ),
        ("disk_bytes < 5", "disk_bytes < 5 is false: disk_bytes is 9223372036854775807"),
        (
            "groups.exists(g, g == device)",
            "groups.exists(g, g == device) is false: groups has \"beta\", \"site-paris\", device is \"gw-00017\"",
        ),
        (
            "arch == 'arm' || labels.none == 'x' || site == ''",
            "arch == 'arm' || labels.none == 'x' || site == '' is false: \
             arch is \"aarch64\", label `none` is missing, site is \"paris-1\"",
        ),
        (
            "(arch == 'aarch64' && (os == 'linux' && (agent == '1'))) && engine == 'x'",
            "agent == '1' is false: agent is \"0.4.1\"",
        ),
        ("(arch == 'arm' || online) && true", "arch == 'arm' || online is false: arch is \"aarch64\", online is false"),
        ("false", "false is false"),
        ("site ==\n\t''", "site ==  '' is false: site is \"paris-1\""),
        ("labels.name == 'ü' && true", "labels.name == 'ü' is false: labels.name is \"Über\""),
        ("1 / size(labels.none) == 1 && online", "label `none` is missing"),
        (
            "int(labels.site) > 3",
            "int(labels.site) > 3 cannot be evaluated: this is no whole number: labels.site is \"paris\"",
        ),
        (
            "memory_bytes / (size(groups) - 2) == 1",
            "memory_bytes / (size(groups) - 2) == 1 cannot be evaluated: a division by zero: memory_bytes is 2147483648, groups has \"beta\", \"site-paris\"",
        ),
        (
            "groups[7] == ''",
            "groups[7] == '' cannot be evaluated: the list is not that long: groups has \"beta\", \"site-paris\"",
        ),
        (
            "disk_bytes + 1 > 0",
            "disk_bytes + 1 > 0 cannot be evaluated: a number beyond 64 bits: disk_bytes is 9223372036854775807",
        ),
    ] {
        assert_eq!(matches(text), Match::No(wanted.to_owned()), "{text}");
    }
}

#[test]
fn a_missing_label_does_not_match_whatever_is_asked_of_it() {
    for text in [
        "labels.none == 'x'",
        "labels.none != 'x'",
        "!(labels.none == 'x')",
        "labels['none'] in ['x']",
        "labels.none.startsWith('x')",
        "arch == 'aarch64' && labels.none != 'x' && online",
        "['x'].all(x, labels.none == x)",
    ] {
        assert_eq!(matches(text), Match::No("label `none` is missing".to_owned()), "{text}");
    }
}

/// Texts of full length whose nesting the bracket limit does not see, and the like.
fn hostile() -> Vec<String> {
    let fill = |unit: &str, end: &str| {
        let n = (scan::MAX_CHARS - end.len()) / unit.len();
        unit.repeat(n) + end
    };
    let mut all: Vec<_> = [
        ("1+", "1==1"),
        ("!", "true"),
        ("-", "1==1"),
        ("- ", "1==1"),
        ("! ", "true"),
        ("true?true:", "true"),
        ("true?", "true"),
        ("a.", "a"),
        ("a.b().", "a"),
        ("true&&", "true"),
        ("true||", "true"),
        ("1<", "1"),
        ("[0]", ""),
        ("groups[0]", ""),
        ("a[0]", ""),
        ("\"a\"+", "\"a\"==\"\""),
        ("a in ", "a"),
        ("1==", "1"),
        ("(", ""),
        (")", ""),
        ("[", ""),
        ("{", ""),
        ("a(", ""),
        ("has(", ""),
        ("&&", ""),
        ("||", ""),
        ("?", ""),
        (":", ""),
        (".", ""),
        ("\"", ""),
        ("\\", ""),
        ("'", ""),
        ("#", ""),
        ("ü", ""),
        ("😀", ""),
        ("true,", "true"),
        ("a{b:", ""),
        ("1.", "1"),
        ("1e", "1"),
        ("0x", "f"),
        ("9", ""),
        ("9", "==9"),
        (" ", ""),
        ("\n", ""),
        ("()", ""),
        ("a ", ""),
        ("true?1:", "1"),
        ("!-", "1"),
        ("1-", "-1==1"),
        ("'a'.size()+", "1==1"),
        ("true==", "true"),
    ]
    .map(|(unit, end)| fill(unit, end))
    .into();
    // As deep as brackets may be, and then on without any.
    for (open, close) in
        [("(", ")"), ("!(", ")"), ("true?(", "):true"), ("true?true:(", ")"), ("true&&(", ")"), ("1==1==(", ")")]
    {
        for unit in ["true?true:", "true?", "!", "true==", "()", "1+"] {
            let around = (open.len() + close.len()) * scan::MAX_BRACKETS;
            let inner = unit.repeat((scan::MAX_CHARS - around - 4) / unit.len()) + "true";
            all.push(open.repeat(scan::MAX_BRACKETS) + &inner + &close.repeat(scan::MAX_BRACKETS));
        }
    }
    all
}

#[test]
fn hostile_texts_fit_half_a_stack_and_are_soon_done_with() {
    for text in hostile() {
        let small = std::thread::Builder::new().stack_size(1 << 20);
        let started = std::time::Instant::now();
        let parsed = small.spawn(move || Selector::parse(&text)).unwrap().join();
        assert!(!matches!(parsed.unwrap(), Err(SelectorError::Internal { .. })));
        assert!(started.elapsed() < std::time::Duration::from_secs(2));
    }
}

#[test]
fn garbage_is_refused_or_evaluated_and_never_panics() {
    let words = [
        "labels",
        ".site",
        "labels.none",
        "[\"a\"]",
        "groups",
        "groups.exists(g, ",
        "groups.map(x, ",
        "device",
        "size(",
        "int(",
        "string(",
        "memory_bytes",
        "online",
        "arch",
        "has(",
        "true",
        "false",
        "1",
        "-9223372036854775808",
        "9223372036854775807",
        "0",
        "-1",
        "\"7\"",
        "'ü'",
        "\"\\u00e9\"",
        "'\\x'",
        "null",
        "1.5",
        "2u",
        "b'x'",
        "{",
        "}",
        "(",
        ")",
        "(",
        ")",
        "[",
        "]",
        ",",
        "&&",
        "||",
        "!",
        "?",
        ":",
        "==",
        "!=",
        "<",
        ">=",
        "+",
        "-",
        "*",
        "/",
        "%",
        " in ",
        ".",
        ".startsWith(",
        ".filter(",
        "@result",
        "`",
        "\n",
        "\u{0}",
        "\\",
        "\"",
        "'",
        "\u{1f600}",
        "optional.of(",
        ".?x",
        "dyn(",
        "type(",
    ];
    let seed = 0x5eed_u64;
    let mut state = seed;
    let mut next = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::rollout::hash::rank(state, "") % below as u64) as usize
    };
    let owned = Owned::new();
    let (mut taken, rounds) = (0, 20_000);
    for round in 0..rounds {
        // Pieces of the language, and every other time a good selector with something changed.
        let text: String = if round % 2 == 0 {
            (0..1 + next(12)).map(|_| words[next(words.len())]).collect()
        } else {
            let mut parts = vec![
                "labels.site",
                " == ",
                "\"paris\"",
                " && ",
                "!(",
                "\"x\"",
                " in ",
                "groups",
                ")",
                " || ",
                "1",
                " < ",
                "int(",
                "labels.line",
                ")",
                " && ",
                "groups.exists(g, ",
                "g",
                " == ",
                "device",
                ")",
            ];
            for _ in 0..1 + next(2) {
                let at = next(parts.len());
                parts[at] = words[next(words.len())];
            }
            parts.concat()
        };
        match Selector::parse(&text) {
            Ok(selector) => {
                taken += 1;
                let found = selector.matches(&owned.facts());
                assert_eq!(found == Match::Yes, selector.selects(&owned.facts()), "seed {seed}, round {round}: {text}");
                assert_eq!(found == Match::Yes, by_cel_alone(&text, &owned), "seed {seed}, round {round}: {text}");
                if let Match::No(why) = found {
                    assert!(!why.is_empty() && !why.contains("overload"), "seed {seed}, round {round}: {text}: {why}");
                }
            }
            Err(SelectorError::Internal { message }) => panic!("seed {seed}, round {round}: {text}: {message}"),
            Err(_) => {}
        }
    }
    assert!(taken > rounds / 100, "only {taken} of {rounds} meant anything");
}

/// The whole text evaluated at once, without any of this module's own reading of it.
fn by_cel_alone(text: &str, owned: &Owned) -> bool {
    let facts = owned.facts();
    let view = View::new(&facts);
    let program = ENV.compile(text).unwrap();
    holds(program.expression(), &context(&view)) == Ok(true)
}

#[test]
fn mistakes_are_named_with_their_place() {
    for (text, wanted) in [
        ("", "the selector is empty; `true` selects every device"),
        (" \n ", "the selector is empty; `true` selects every device"),
        ("labels.site = \"x\"", "at column 13: Syntax error: token recognition error at: '= '"),
        ("'ü' == 'ü' && arch ==", "at column 22: Syntax error: mismatched input end of the text"),
        ("'ü' == r''", "at column 9: write a string as \"…\" or '…', without a letter in front"),
        ("arch == ", "at column 9: Syntax error: mismatched input end of the text"),
        ("arch == 'x' &&\n  (os == 'y'", "at line 2, column 13: Syntax error: missing ')' at end of the text"),
        ("arch == 'x", "at column 9: this string has no end"),
        ("arch == r'x'", "at column 10: write a string as \"…\" or '…', without a letter in front"),
        ("arch == '''x'''", "at column 9: write a string with one quote at each end"),
        ("true // really", "at column 6: a selector has no comments"),
        ("labels.`a-b` == ''", "at column 8: write labels[\"…\"] for a name that is no word"),
        ("true\u{7}", "at column 5: a control character"),
        ("labels.?site == ''", "at column 7: unsupported syntax '.?'"),
        ("has(labels)", "at column 5: invalid argument to has() macro"),
        (
            "'ü' == arch &&\n label.site == 'x'",
            "at line 2, column 2: there is no variable `label`, did you mean `labels`?; the variables are device, labels, groups, \
             arch, os, agent, engine, engine_version, memory_bytes, disk_bytes, online, site",
        ),
        (
            "device.startswith('x')",
            "at column 18: there is no function `startswith`, did you mean `startsWith`?; the functions are size, startsWith, \
             endsWith, contains, int, string, has, all, exists, exists_one, filter, map",
        ),
        (
            "labels.site == 7",
            "at column 13: `==` does not take a string and an int: write the number in quotes, or int(…) around the string",
        ),
        ("arch && true", "at column 6: `&&` does not take a string and a bool"),
        (
            "agent >= '0.9'",
            "at column 7: `>=` does not take a string and a string: strings have no order here, as \"0.10\" would come before \
             \"0.9\"; use ==, in or startsWith, or int(…)",
        ),
        ("true ? 1 : 'x'", "at column 6: `? :` does not take a bool and an int and a string"),
        ("labels == labels", "at column 8: `==` does not take labels and labels"),
        ("arch[0] == 'a'", "at column 5: `[…]` does not take a string and an int"),
        ("device.size == 4", "at column 7: only labels have fields, not a string: .size"),
        (
            "startsWith(device, 'x')",
            "at column 11: `startsWith` does not take a string and a string like this; write e.g. device.startsWith(\"gw-\")",
        ),
        (
            "groups.exists('beta')",
            "at column 14: `exists` does not take a list of strings and a string like this; \
             write e.g. groups.exists(g, g.startsWith(\"beta-\"))",
        ),
        ("arch in ['x', 1]", "at column 9: the parts of a list have to be of one type"),
        ("[['x']] == []", "at column 1: a list cannot have a list of strings in it"),
        ("memory_bytes > 1.5", "at column 16: numbers are whole here, without `.` and `u`, and nothing is null"),
        ("labels.site == null", "at column 16: numbers are whole here, without `.` and `u`, and nothing is null"),
        ("arch in {'x': 1}", "at column 9: `{…}` has no use in a selector"),
        ("labels.site", "the selector yields a string; it has to be true or false"),
        ("1 + 1", "the selector yields an int; it has to be true or false"),
        ("online || 1 / 0 == 1", "at column 13: this can never be evaluated: a division by zero"),
        (
            "9223372036854775807 + 1 > memory_bytes",
            "at column 21: this can never be evaluated: a number beyond 64 bits",
        ),
        ("int('many') < memory_bytes", "at column 4: this can never be evaluated: this is no whole number"),
        ("groups.exists(g, groups.exists(h, g == h))", "at column 31: one macro within another takes too long"),
        ("groups.exists(g, g in groups)", "at column 23: going through `groups` for each of `groups` takes too long"),
        ("groups.exists(site, site == 'x')", "at column 14: `site` is a variable already; give this one another name"),
        ("labels.all(k, k != 'x')", "at column 11: a macro goes over a list that is not empty, not over labels"),
        ("groups.map(g, [g]) == []", "at column 11: a list cannot have a list of strings in it"),
        ("groups.all(g, size(g))", "at column 11: `&&` does not take a bool and an int"),
        ("matchez(device)", ""),
        ("optional.of(true).value()", ""),
        ("type(arch) == string", ""),
        ("@result", ""),
    ] {
        let found = refused(text);
        let right = if wanted.is_empty() { !found.contains("did you mean") } else { found == wanted };
        assert!(right, "{text}\n found {found:?}\nwanted {wanted:?}");
    }
}

#[test]
fn what_is_too_long_or_too_deep_is_refused_before_it_is_parsed() {
    let longest = format!("'{}' != arch", "ü".repeat(scan::MAX_CHARS - 10));
    assert!(Selector::parse(&longest).is_ok());
    assert_eq!(Selector::parse(&(longest + " ")), Err(SelectorError::TooLong { length: 1001 }));
    let nested = |depth: usize| Selector::parse(&("(".repeat(depth) + "true" + &")".repeat(depth)));
    assert!(nested(scan::MAX_BRACKETS).is_ok());
    assert_eq!(nested(scan::MAX_BRACKETS + 1), Err(SelectorError::TooDeep { at: Place { line: 1, column: 9 } }));
    let sum = |terms: usize| Selector::parse(&(["memory_bytes"].repeat(terms).join("+") + ">0"));
    assert!(sum(check::MAX_DEPTH - 2).is_ok());
    assert!(matches!(sum(check::MAX_DEPTH + 1), Err(SelectorError::TooDeep { .. })));
    assert!(matches!(Selector::parse(&("true?true:".repeat(98) + "true")), Err(SelectorError::TooDeep { .. })));
    assert!("\"((((((((((\" != arch".parse::<Selector>().is_ok());
}

#[test]
fn reasons_stay_short() {
    let mut owned = Owned::new();
    owned.labels.insert("long".to_owned(), "x".repeat(100_000));
    owned.groups = (0..1000).map(|n| format!("g{n:04}").parse().unwrap()).collect();
    let all: Vec<_> = (0..30).map(|n| format!("labels.a{n} == labels.long")).collect();
    for (text, end) in [(all.join("||"), "…"), ("'x' in groups || size(labels.long) == 1".to_owned(), "…\"")] {
        let selector = Selector::parse(&text).unwrap();
        let Match::No(why) = selector.matches(&owned.facts()) else { panic!("{text}") };
        assert!(why.len() < 1500 && why.ends_with(end), "{why}");
    }
}

#[test]
fn conjuncts_are_those_of_the_parser() {
    for (text, wanted) in [
        ("a", vec!["a"]),
        ("a && b&&c", vec!["a", "b", "c"]),
        ("((a && b) && (c))", vec!["a", "b", "c"]),
        ("(a) && (b)", vec!["a", "b"]),
        ("a || b && c", vec!["a || b && c"]),
        ("a ? b : c && d", vec!["a ? b : c && d"]),
        ("(a || b) && f('&&', \"\\\"&&\") && g[h && i]", vec!["a || b", "f('&&', \"\\\"&&\")", "g[h && i]"]),
    ] {
        assert_eq!(scan::conjuncts(text), wanted, "{text}");
    }
}

#[test]
fn serialised_as_its_text_and_checked_when_read() {
    let selector = Selector::parse("labels.site == \"paris\"").unwrap();
    let json = serde_json::to_string(&selector).unwrap();
    assert_eq!(json, r#""labels.site == \"paris\"""#);
    assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
    let error = serde_json::from_str::<Selector>("\"label.site == ''\"").unwrap_err().to_string();
    assert!(error.contains("did you mean `labels`?"), "{error}");
    assert_eq!(selector.to_string(), selector.as_str());
    assert_ne!(selector, Selector::parse("labels.site == 'paris'").unwrap());
}

#[test]
fn a_clone_shares_the_program_and_may_go_to_another_thread() {
    fn movable<T: Send + Sync + 'static>(_: &T) {}
    let selector = Selector::parse("true").unwrap();
    movable(&selector);
    assert!(Arc::ptr_eq(&selector.conjuncts, &selector.clone().conjuncts));
}

#[test]
fn facts_are_taken_from_a_report() {
    let owned = Owned::new();
    let mut agent = AgentInfo {
        version: "0.4.1".to_owned(),
        engine: "tract 0.23.9".to_owned(),
        arch: "aarch64".to_owned(),
        os: "linux".to_owned(),
        memory_bytes: 5,
        disk_bytes: u64::MAX,
        speaks: (1, 1),
    };
    let text = "engine == 'tract' && engine_version == '0.23.9' && agent == '0.4.1' && arch == 'aarch64' && os == 'linux' \
                && memory_bytes == 5 && disk_bytes == 9223372036854775807 && online && site == 's' && device == 'gw-00017'";
    let selector = Selector::parse(text).unwrap();
    assert_eq!(
        selector.matches(&Facts::new(&owned.device, &owned.labels, &owned.groups, &agent, true, "s")),
        Match::Yes
    );
    agent.engine = "stub".to_owned();
    let facts = Facts::new(&owned.device, &owned.labels, &owned.groups, &agent, true, "s");
    assert_eq!((facts.engine, facts.engine_version), ("stub", ""));
}

/// `cargo test --release -- --ignored --nocapture a_million`
#[test]
#[ignore = "a measurement"]
fn a_million_devices() {
    let label = |site: &str| BTreeMap::from([("site", site), ("line", "3")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    let labels = [label("berlin"), label("paris")];
    let names: Vec<DeviceId> = (0..1_000_000).map(|n| format!("gw-{n:06}").parse().unwrap()).collect();
    let owned = Owned::new();
    for text in [
        "online",
        "labels.site == \"berlin\"",
        "labels.site == \"berlin\" && memory_bytes >= 2 * 1024 * 1024 * 1024",
        "arch in [\"aarch64\", \"x86_64\"] && !(\"gamma\" in groups) && device.startsWith(\"gw-\")",
        "has(labels.line) && labels.line != \"7\"",
        "groups.exists(g, g.startsWith(\"site-\"))",
    ] {
        let selector = Selector::parse(text).unwrap();
        let facts = |n: usize| Facts { device: &names[n], labels: &labels[n % 2], ..owned.facts() };
        let started = std::time::Instant::now();
        let selected = (0..names.len()).filter(|n| selector.selects(&facts(*n))).count();
        let selects = started.elapsed().as_nanos() / names.len() as u128;
        let started = std::time::Instant::now();
        let matched = (0..names.len()).filter(|n| selector.matches(&facts(*n)) == Match::Yes).count();
        let matches = started.elapsed().as_nanos() / names.len() as u128;
        assert_eq!(selected, matched);
        println!("{selects:5} ns selects, {matches:5} ns matches, {selected:7} selected: {text}");
    }
}
#[test]
fn what_is_just_not_too_deep_is_evaluated_on_half_a_stack() {
    let rows =
        [("memory_bytes+", "0>0"), ("online?online:", "online"), ("online==", "online"), ("device+", "device==''")];
    let around = [("", ""), ("!(", ")"), ("groups.exists(g, ", ")"), ("groups.all(g, true?!(", "):true)")];
    let mut deepest = 0;
    for ((unit, end), (open, close)) in rows.into_iter().flat_map(|row| around.map(|around| (row, around))) {
        for length in 1..check::MAX_DEPTH + 1 {
            let text = format!("{open}{}{end}{close}", unit.repeat(length));
            let small = std::thread::Builder::new().stack_size(1 << 20);
            let evaluated = small.spawn(move || {
                let owned = Owned::new();
                Selector::parse(&text).map(|selector| selector.matches(&owned.facts()))
            });
            match evaluated.unwrap().join().unwrap() {
                Ok(_) => deepest = deepest.max(length),
                Err(error) => assert!(matches!(error, SelectorError::TooDeep { .. }), "{error}"),
            }
        }
    }
    assert!(deepest >= check::MAX_DEPTH - 3);
}
