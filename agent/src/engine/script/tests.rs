use std::cell::Cell;

use muster_proto::manifest::{Dim, Dtype, TensorSpec};

use super::*;
use crate::engine::testing::wasm::{ECHO, hooks, with_alloc};

mod digits;

/// A module with an `alloc` that always gives the same place, and `extra`.
fn module(extra: &str) -> Vec<u8> {
    with_alloc("(i32.const 1024)", extra)
}

/// A module whose hooks are `body`.
fn hooked(body: &str) -> Vec<u8> {
    module(&hooks(body))
}

fn limits() -> ScriptLimits {
    ScriptLimits { fuel: 20_000_000, memory_bytes: 4 << 20 }
}

fn script(bytes: &[u8]) -> Script {
    Script::new(bytes, limits()).expect("loads")
}

fn call(bytes: &[u8], input: &str) -> Result<Vec<u8>, Error> {
    script(bytes).sandbox.call(Hook::Preprocess, input.as_bytes(), &|| true)
}

/// A packed result.
fn packed(at: u32, length: u32) -> String {
    format!("(i64.const {})", (u64::from(at) << 32 | u64::from(length)) as i64)
}

fn refused(bytes: &[u8]) -> String {
    let error = Script::new(bytes, limits()).expect_err("refused");
    assert_eq!(error.code(), Code::ScriptInvalid, "{error}");
    error.to_string()
}

#[test]
fn a_hook_gets_its_input_and_gives_its_output() {
    assert_eq!(call(&hooked(ECHO), "{\"a\": 1}").expect("answers"), b"{\"a\": 1}");
    assert_eq!(call(&hooked(ECHO), "").expect("answers"), b"");
    let only = module(&format!("(func (export \"postprocess\") (param i32 i32) (result i64) {ECHO})"));
    assert_eq!(script(&only).hooks(), [Hook::Postprocess]);
}

#[test]
fn a_call_finds_nothing_of_the_one_before() {
    // Returns the number of calls so far as one digit.
    let count = "(global $n (mut i32) (i32.const 48))";
    let body = format!(
        "(global.set $n (i32.add (global.get $n) (i32.const 1))) (i32.store8 (i32.const 8) (global.get $n)) {}",
        packed(8, 1)
    );
    let script = script(&module(&format!("{count} {}", hooks(&body))));
    for _ in 0..3 {
        assert_eq!(script.sandbox.call(Hook::Preprocess, b"", &|| true).expect("answers"), b"1");
    }
}

#[test]
fn a_refusal_is_the_scripts_own_sentence() {
    let say = |text: &str| {
        let refusal = packed(16, text.replace("\\ff", "x").len() as u32 | 1 << 31);
        let data = format!("(data (i32.const 16) \"{text}\")");
        call(&module(&format!("{data} {}", hooks(&refusal))), "{}").expect_err("refuses")
    };
    let error = say("no pixels");
    assert_eq!(
        (error.to_string().as_str(), error.code(), error.is_callers()),
        ("no pixels", Code::ScriptRefused, true)
    );
    assert_eq!(say("no \\ff pixels").to_string(), "no \u{fffd} pixels");
    assert_eq!(say(&"x".repeat(5000)).to_string().len(), 1000);
}

#[test]
fn what_a_script_does_wrong_is_told_apart() {
    let deep = format!(
        "(func $deep (param i32) (result i32) (i32.add (i32.const 1) (call $deep (local.get 0)))) {}",
        hooks(&format!("(drop (call $deep (i32.const 0))) {ECHO}"))
    );
    let grow = format!("(drop (memory.grow (i32.const 1000))) {ECHO}");
    let table: Vec<(Vec<u8>, Code, &str)> = vec![
        (hooked("(unreachable)"), Code::ScriptFailed, "unreachable"),
        (hooked("(i64.div_u (i64.const 1) (i64.const 0))"), Code::ScriptFailed, "divide by zero"),
        (hooked("(i64.load (i32.const -8))"), Code::ScriptFailed, "out of bounds"),
        (module(&deep), Code::ScriptFailed, "stack"),
        (hooked("(loop (br 0)) (unreachable)"), Code::ScriptOutOfFuel, "fuel of 20000000 in preprocess"),
        (hooked(&grow), Code::ScriptOutOfMemory, "memory of 4194304 bytes in preprocess"),
        (hooked(&packed(1 << 17, 1)), Code::ScriptFailed, "not in its memory of 131072 bytes"),
        (hooked(&packed((1 << 17) - 4, 8)), Code::ScriptFailed, "8 bytes at 131068"),
        (hooked(&packed(0, (1 << 31) - 1)), Code::ScriptFailed, "2147483647 bytes at 0"),
        (hooked("(i64.const -1)"), Code::ScriptFailed, "not in its memory"),
        (with_alloc("(i32.const -1)", &hooks(ECHO)), Code::ScriptFailed, "alloc(2) gave 4294967295"),
        (with_alloc("(i32.const 131071)", &hooks(ECHO)), Code::ScriptFailed, "alloc(2) gave 131071"),
        (with_alloc("(unreachable)", &hooks(ECHO)), Code::ScriptFailed, "unreachable"),
        (with_alloc("(loop (br 0)) (unreachable)", &hooks(ECHO)), Code::ScriptOutOfFuel, "fuel"),
    ];
    for (bytes, code, words) in table {
        let error = call(&bytes, "{}").expect_err(words);
        assert!(error.code() == code && error.to_string().contains(words), "{words}: {} {error}", error.code());
        assert!(!error.is_callers(), "{error}");
    }
}

#[test]
fn a_script_ends_where_nobody_waits_any_more() {
    let asked = Cell::new(0);
    let is_wanted = || {
        asked.set(asked.get() + 1);
        asked.get() < 3
    };
    let endless = script(&hooked("(loop (br 0)) (unreachable)"));
    let error = endless.sandbox.call(Hook::Postprocess, b"{}", &is_wanted).expect_err("stopped");
    assert_eq!((error.code(), asked.get()), (Code::ScriptStopped, 3));
}

#[test]
fn work_is_metered_to_the_instruction_and_alike_in_every_run() {
    // As often as it takes until the last byte of the input is zero, and so not at all; then counts down.
    let count = |rounds: u32| {
        hooked(&format!(
            "(local $n i32) (local.set $n (i32.const {rounds}))
             (loop (br_if 0 (local.tee $n (i32.sub (local.get $n) (i32.const 1))))) {ECHO}"
        ))
    };
    let fits = |rounds: u32, fuel: u64| {
        let script = Script::new(&count(rounds), ScriptLimits { fuel, ..limits() }).expect("loads");
        script.sandbox.call(Hook::Preprocess, b"{}", &|| true).is_ok()
    };
    let least = |rounds: u32| (1..100_000).find(|fuel| fits(rounds, *fuel)).expect("some");
    let (few, many) = (least(10), least(1000));
    assert_eq!((few, many), (least(10), least(1000)));
    assert!(many > few + 900, "{few} {many}");
    // Three slices, and no more and no less than in one piece.
    assert!(call(&count(500_000), "{}").is_ok());
}

#[test]
fn one_step_may_need_more_than_a_slice() {
    let fill = "(memory.fill (i32.const 2048) (i32.const 0) (i32.const 130000000))";
    let bytes = hooked(&format!("(drop (memory.grow (i32.const 2000))) {fill} {ECHO}"));
    let call = |fuel: u64| {
        let script = Script::new(&bytes, ScriptLimits { fuel, memory_bytes: 200 << 20 }).expect("loads");
        script.sandbox.call(Hook::Preprocess, b"{}", &|| true)
    };
    assert_eq!(call(20_000_000).expect("answers"), b"{}");
    assert_eq!(call(1_000_000).expect_err("costs more").code(), Code::ScriptOutOfFuel);
}

#[test]
fn modules_that_are_none_are_refused() {
    let good = hooked(ECHO);
    for cut in [0, 4, 8, good.len() / 2, good.len() - 1] {
        refused(&good[..cut]);
    }
    refused(b"no module at all");
    assert!(refused(&vec![0; MAX_MODULE as usize + 1]).contains("over the limit"));
    for at in 8..good.len() {
        // Whatever a changed byte makes of it, nothing panics.
        let mut changed = good.clone();
        changed[at] ^= 0x55;
        if let Ok(script) = Script::new(&changed, ScriptLimits { fuel: 10_000, ..limits() }) {
            let _ = script.sandbox.call(script.hooks()[0], b"{}", &|| true);
        }
    }
}

#[test]
fn modules_with_another_interface_are_refused() {
    let wat = |text: &str| wat::parse_str(text).expect("is a module");
    let print = "(module (import \"env\" \"print\" (func (param i32))) (memory (export \"memory\") 1))";
    assert!(refused(&wat(print)).contains("imports env.print, and a script gets nothing from outside"));
    let wasi = print.replace("\"env\" \"print\"", "\"wasi_snapshot_preview1\" \"fd_write\"");
    assert!(refused(&wat(&wasi)).contains("wasm32-unknown-unknown"));
    assert!(refused(&wat("(module)")).contains("no `memory`"));
    assert!(refused(&wat("(module (memory (export \"memory\") 1))")).contains("no `alloc`"));
    assert!(refused(&module("")).contains("neither `preprocess` nor `postprocess`"));
    let wrong = "(func (export \"preprocess\") (param i32) (result i64) (i64.const 0))";
    assert!(refused(&module(wrong)).contains("`preprocess` is not a function (i32, i32) -> i64"));
    let memory = with_alloc("(i32.const 0)", &hooks(ECHO));
    assert!(Script::new(&memory, ScriptLimits { memory_bytes: 64 << 10, ..limits() }).is_err(), "two pages in one");
    let many =
        (0..10_001).map(|_| format!("(func (result i64) {})", "(i64.const 1)(drop)".repeat(20) + "(i64.const 1)"));
    assert!(refused(&module(&(many.collect::<String>() + &hooks(ECHO)))).contains("10000 functions"));
}

#[test]
fn start_functions_are_metered() {
    let start = |body: &str| module(&format!("(func $start {body}) (start $start) {}", hooks(ECHO)));
    assert_eq!(call(&start("(nop)"), "{}").expect("answers"), b"{}");
    assert!(refused(&start("(loop (br 0))")).contains("fuel"));
    assert!(refused(&start("(unreachable)")).contains("unreachable"));
}

fn spec() -> [TensorSpec; 1] {
    [TensorSpec { name: "x".into(), dtype: Dtype::F32, shape: vec![Dim::Symbol("N".into()), Dim::Fixed(2)] }]
}

#[test]
fn preprocess_gives_what_plain_scoring_takes() {
    let (echo, transforms, specs) = (script(&hooked(ECHO)), Transforms::default(), spec());
    let wanted = Wanted { specs: &specs, transforms: &transforms };
    let made = |json: &str| echo.preprocess(json.as_bytes(), &wanted, &|| true);
    let tensor = Tensor::from_f32(vec![1, 2], &[1.0, 0.5]).expect("fits");
    for json in [
        r#"{"x": [[1, 0.5]]}"#,
        r#"{"x": {"shape": [1, 2], "data": [1, 0.5]}}"#,
        r#"{"x": {"dtype": "f32", "shape": [1, 2], "b64": "AACAPwAAAD8="}}"#,
        "[[1, 0.5]]",
    ] {
        assert_eq!(made(json).expect(json)["x"], tensor, "{json}");
    }
    for (json, code, words) in [
        (r#"{"y": [[1, 2]]}"#, Code::InputInvalid, "no input 'y', but x"),
        (r#"{"x": {"dtype": "f32", "shape": [3, 2], "b64": "AACAPw=="}}"#, Code::InputInvalid, "input 'x'"),
        ("nonsense", Code::ScriptFailed, "no JSON dictionary"),
        ("\u{fffd}", Code::ScriptFailed, "no JSON dictionary"),
    ] {
        let error = made(json).expect_err(json);
        assert!(error.code() == code && error.to_string().contains(words), "{json}: {error}");
    }
}

#[test]
fn postprocess_gives_json() {
    let outputs = BTreeMap::from([("y".to_owned(), Tensor::from_f32(vec![1], &[0.5]).expect("fits"))]);
    let transforms = Transforms::default();
    let answer = script(&hooked(ECHO)).postprocess(&outputs, &transforms, &|| true).expect("answers");
    assert_eq!(answer, br#"{"y":{"dtype":"f32","shape":[1],"data":[0.5]}}"#);
    let data = |bytes: &str| format!("(data (i32.const 16) \"{bytes}\")");
    for bytes in ["\\22\\ff\\22", "no", "1}"] {
        let bytes = module(&format!("{} {}", data(bytes), hooks(&packed(16, if bytes.len() > 4 { 3 } else { 2 }))));
        let error = script(&bytes).postprocess(&outputs, &transforms, &|| true).expect_err("no JSON");
        assert!(error.code() == Code::ScriptFailed && error.to_string().contains("no JSON"), "{error}");
    }
}
