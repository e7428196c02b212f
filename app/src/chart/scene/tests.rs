use super::*;
use std::sync::Arc;

const SETTINGS: Settings = Settings {
    axis: XAxis::Step,
    log_x: false,
    log_y: false,
    smoothing: 0.6,
    zoom: None,
    width: 640.0,
    height: 240.0,
};

fn series(look: Look, points: Vec<Point>) -> Series {
    Series { name: "a <b>".into(), style: 1, look, range: false, restarts: vec![], points: Arc::new(points) }
}
fn ramp(n: usize) -> Vec<Point> {
    (0..n).map(|i| Point::new(i as f64, i as f64 * 10.0, i as f64, 9.0 - (i as f64).sqrt() / 20.0)).collect()
}

#[test]
fn nothing_to_draw_is_an_empty_picture_not_an_error() {
    for log in [false, true] {
        let settings = Settings { log_x: log, log_y: log, ..SETTINGS };
        assert!(Scene::new(&[], settings).empty);
        let nan = vec![Point::new(0.0, 0.0, 0.0, f64::NAN), Point::new(1.0, 1.0, 1.0, -1.0)];
        let scene = Scene::new(&[series(Look::Smoothed, nan)], settings);
        assert_eq!(scene.empty, log);
        assert!(!scene.body("loss", None).contains("NaN"));
    }
}

#[test]
fn labels_of_ticks_end_inside_the_picture() {
    let points =
        (1..40).map(|i| Point { compute: 1.7e12 * f64::from(i), ..Point::new(f64::from(i), 1.0, 1.0, 2.0) });
    let points: Vec<Point> = points.collect();
    for width in (300..700).map(f64::from) {
        let settings = Settings { axis: XAxis::Compute, width, ..SETTINGS };
        let body = Scene::new(&[series(Look::Marked, points.clone())], settings).body("loss", None);
        for part in body.split("<text ").skip(1) {
            let (marks, rest) = part.split_once('>').unwrap();
            let x = marks.split("x=\"").nth(1).unwrap().split('"').next().unwrap().parse::<f64>().unwrap();
            let letters = rest.split('<').next().unwrap().chars().count() as f64;
            if marks.contains("middle") {
                assert!(x + LETTER / 2.0 * letters <= width, "{width}: {part}");
            }
        }
    }
}

#[test]
fn ten_thousand_points_become_a_short_path() {
    let scene = Scene::new(&[series(Look::Smoothed, ramp(10_000))], SETTINGS);
    let body = scene.body("loss", None);
    assert!(body.len() < 80_000, "{}", body.len());
    assert_eq!(scene.marks[0].values.len(), 10_000);
}

#[test]
fn stairs_hold_each_value() {
    assert_eq!(
        stairs(&[(0.0, 5.0), (2.0, 3.0), (7.0, 1.0)]),
        [(0.0, 5.0), (2.0, 5.0), (2.0, 3.0), (7.0, 3.0), (7.0, 1.0)]
    );
    assert_eq!(stairs(&[(1.0, 2.0)]), [(1.0, 2.0)]);
    assert!(stairs(&[]).is_empty());
    let points =
        ramp(3).into_iter().enumerate().map(|(i, p)| p.with_compute(1e12 * (i + 1) as f64)).collect();
    let scene = Scene::new(&[series(Look::Stairs, points)], Settings { axis: XAxis::Compute, ..SETTINGS });
    assert_eq!(scene.marks[0].strong.matches('L').count(), 4);
    assert!(scene.x_ticks.iter().all(|t| t.1.ends_with("FLOP")), "{:?}", scene.x_ticks);
}

#[test]
fn zoom_narrows_both_axes() {
    let all = Scene::new(&[series(Look::Smoothed, ramp(1000))], SETTINGS);
    let part = Scene::new(
        &[series(Look::Smoothed, ramp(1000))],
        Settings { zoom: Some((900.0, 950.0)), ..SETTINGS },
    );
    assert_eq!((part.x.low, part.x.high), (900.0, 950.0));
    assert!(part.y.high - part.y.low < 0.1 * (all.y.high - all.y.low));
}

#[test]
fn marked_series_show_dots_whiskers_and_no_smoothing() {
    let points = ramp(5).into_iter().map(|p| p.with_error(0.5)).collect();
    let scene = Scene::new(&[series(Look::Marked, points)], SETTINGS);
    let m = &scene.marks[0];
    assert_eq!(m.dots.len(), 5);
    assert!(m.raw.is_empty() && m.band.is_empty() && !m.whiskers.is_empty());
    assert_eq!(m.values[4], ramp(5)[4].y);
}

#[test]
fn bands_surround_smoothed_lines() {
    let points = ramp(50).into_iter().map(|p| p.with_error(0.5)).collect();
    let scene = Scene::new(&[series(Look::Smoothed, points)], SETTINGS);
    assert!(scene.marks[0].band.ends_with('Z'));
}

#[test]
fn names_are_escaped_in_pictures() {
    let s = [series(Look::Smoothed, ramp(20))];
    let colours = Colours { series: vec!["#123".into(); 8], ..Colours::default() };
    let text = Scene::new(&s, SETTINGS).document("x & y", "loss", &s, &colours);
    assert!(text.contains("a &lt;b&gt;") && text.contains("x &amp; y") && !text.contains("class="));
}
