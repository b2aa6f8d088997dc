use super::bench::member;
use super::{Bench, device, plan};
use crate::rollout::forecast::{Forecast, forecast};
use crate::rollout::{DevicePhase, Rollout, RolloutStatus, Word};

const STAGES: &str = "stages = [{ name = 'canary', size = 5, soak = '60s' }, { size = '100%', soak = '30s' }]";

fn ends(forecast: &Forecast) -> Vec<(u32, u64, u64)> {
    forecast.stages.iter().map(|stage| (stage.devices, stage.starts_at, stage.ends_at)).collect()
}

#[test]
fn without_limits_each_stage_takes_as_long_as_a_device() {
    let forecast = forecast(&plan(STAGES), 100, 1_000, 40, 5_000);
    assert_eq!(ends(&forecast), [(5, 5_000, 5_100), (95, 5_100, 5_170)]);
    assert_eq!((forecast.ends_at, forecast.bytes), (5_170, 100_000));
    assert_eq!(forecast.stages.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["canary", "2"]);
}

#[test]
fn each_limit_takes_its_time() {
    // (limit, when the stage of 95 ends, which begins at 5,100 without limits)
    for (rate, canary, all) in [
        ("in_flight = 10", 5_100, 5_100 + 9 * 70 + 70),
        ("per_minute = 30", 5_100, 5_100 + (95 - 5) * 2 + 70),
        ("bytes_per_second = 500", 5_100, 5_100 + (95 - 5) * 2 + 70),
        // A thousand bytes every twenty seconds: one at once, then one each.
        ("bytes_per_second = 50", 5_180, 5_180 + 94 * 20 + 70),
        ("in_flight = 2", 5_300, 5_300 + 47 * 70 + 70),
        ("per_minute = 30, in_flight = 2", 5_300, 5_300 + 47 * 70 + 70),
        ("per_minute = { base = 30, factor = 1, every = 10, max = 100 }", 5_100, 5_100 + (95 - 5) * 2 + 70),
        ("per_minute = { base = 60, factor = 2, every = 1000, max = 100, on = 'started' }", 5_100, 5_100 + 85 + 70),
        // Ten at once: 15 have started. One a second to 40, two to 80, four to 100.
        (
            "per_minute = { base = 60, factor = 2, every = 40, max = 960, on = 'started' }",
            5_100,
            5_100 + 25 + 20 + 5 + 70,
        ),
    ] {
        let forecast = forecast(&plan(&format!("rate = {{ {rate} }}\n{STAGES}")), 100, 1_000, 40, 5_000);
        let ends: Vec<u64> = forecast.stages.iter().map(|stage| stage.ends_at).collect();
        assert_eq!(ends, [canary, all], "{rate}");
    }
}

#[test]
fn start_time_and_shadow_run_come_on_top() {
    let text = "
        schedule = { start = '1970-01-01T02:00:00Z' }
        stages = [
            { size = 5, soak = '60s', shadow = { for = '600s' }, gates = { agreement = '90%' } },
            { size = '100%', soak = '30s' },
        ]";
    let forecast = forecast(&plan(text), 100, 1_000, 40, 5_000);
    assert_eq!(ends(&forecast), [(5, 7_200, 7_900), (95, 7_900, 7_970)]);
}

#[test]
fn what_is_fetched_beforehand_only_has_to_soak() {
    let with = |switch: &str| {
        let text =
            format!("schedule = {{ prestage = true, switch = {switch} }}\nrate = {{ in_flight = 50 }}\n{STAGES}");
        ends(&forecast(&plan(&text), 100, 1_000, 40, 5_000))
    };
    // Two times fifty fetch for forty seconds.
    assert_eq!(with("'on_word'"), [(5, 5_080, 5_140), (95, 5_140, 5_140 + 30 + 30)]);
    assert_eq!(with("{ at = '1970-01-01T02:00:00Z' }"), [(5, 7_200, 7_260), (95, 7_260, 7_320)]);
    assert_eq!(with("'directly'"), [(5, 5_040, 5_100), (95, 5_100, 5_160)]);
}

#[test]
fn a_million_devices_are_as_cheap_as_ten() {
    let rate = "rate = { per_minute = { base = 1, factor = 1.01, every = 10, max = 100000 } }";
    let plan = plan(&format!("{rate}\n{STAGES}"));
    let long = std::time::Instant::now();
    let ends: Vec<u64> = [10, 1_000, 1_000_000].map(|n| forecast(&plan, n, 1_000, 40, 0).ends_at).to_vec();
    assert!(ends[0] < ends[1] && ends[1] < ends[2], "{ends:?}");
    assert!(long.elapsed().as_millis() < 500);
}

/// How long the engine takes with a fleet that does well, against what was forecast.
#[test]
fn the_engine_keeps_to_the_forecast() {
    for rate in [
        "in_flight = 100",
        "in_flight = 7",
        "per_minute = 60",
        "bytes_per_second = 700",
        "per_minute = { base = 30, factor = 2, every = 20, max = 300 }",
        "per_minute = { base = 30, factor = 2, every = 20, max = 300, on = 'started' }",
        "per_minute = { base = 60, factor = 1.2, every = 10, max = 600 }, in_flight = 30",
    ] {
        let text = format!("rate = {{ {rate} }}\n{STAGES}");
        let mut bench = Bench::start(&text, 150);
        bench.fetch = 10;
        bench.run_to(RolloutStatus::Completed);
        let took = (bench.now - 1_000) as f64;
        // Thirteen steps of a second each; 1,000 bytes until the first are seen to fetch 500.
        let foreseen = (forecast(&plan(&text), 150, 550, 14, 1_000).ends_at - 1_000) as f64;
        assert!((took / foreseen - 1.0).abs() < 0.2, "{rate}: {took} s, not {foreseen}");
    }
}

#[test]
fn what_is_left_is_forecast_from_what_was_measured() {
    let mut bench = Bench::start(&format!("rate = {{ in_flight = 10 }}\n{STAGES}"), 100);
    let guess = bench.rollout.forecast(bench.now);
    assert_eq!(ends(&guess), [(5, 1_000, 1_120), (95, 1_120, 1_120 + 9 * 90 + 90)]);
    bench.fetch = 20;
    bench.run_until(|bench| bench.rollout.stage == 1);
    let passed = bench.rollout.stages[0].passed_at;
    let left = bench.rollout.forecast(bench.now);
    assert_eq!(ends(&left)[0], (5, 1_000, passed));
    assert_eq!(left.bytes, 85 * 500, "ten have been offered it");
    bench.run_until(|bench| bench.count(DevicePhase::Healthy) > 50);
    let foreseen = bench.rollout.forecast(bench.now).ends_at as f64 - bench.now as f64;
    let now = bench.now as f64;
    bench.run_to(RolloutStatus::Completed);
    let took = bench.now as f64 - now;
    assert!((took / foreseen - 1.0).abs() < 0.25, "{took} s, not {foreseen}");
    bench.run(500);
    let over = bench.rollout.forecast(bench.now);
    assert_eq!((over.ends_at, over.bytes), (bench.rollout.ended_at, 0));
}

#[test]
fn a_rollout_for_nobody_or_cut_short_has_a_forecast() {
    assert_eq!(forecast(&plan(STAGES), 0, 1_000, 40, 5_000).ends_at, 5_000);
    let cut = |word: Word| -> Rollout {
        let mut bench = Bench::start_with(STAGES, 1, vec![member(&device(1))]);
        bench.say(word);
        bench.run(100);
        bench.rollout
    };
    let cancelled = cut(Word::Cancel("enough".into()));
    assert_eq!(cancelled.forecast(9_000).ends_at, cancelled.ended_at);
    assert!(cut(Word::Pause("a look".into())).forecast(9_000).ends_at >= 9_000);
}
