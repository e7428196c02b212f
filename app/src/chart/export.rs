//! A chart as a file: PNG drawn from its SVG on a canvas, in the colours of the current theme.

use wasm_bindgen::JsCast;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

use super::scene::Colours;
use crate::dom;

/// Pixels of the picture per CSS pixel.
const DENSITY: f64 = 2.0;

/// The theme's colours as they are now.
pub fn theme_colours() -> Colours {
    let series: Vec<String> = (0..8).map(|i| format!("--s{i}")).collect();
    let names = ["--panel", "--ink", "--mut", "--line-strong", "--line"];
    let names: Vec<&str> = names.into_iter().chain(series.iter().map(String::as_str)).collect();
    let mut read = dom::colours(&names).into_iter();
    let mut next = || read.next().unwrap_or_default();
    Colours { paper: next(), ink: next(), muted: next(), line: next(), grid: next(), series: read.collect() }
}

/// Draws `svg` (`width` x `height` CSS pixels) and offers it as a file.
pub async fn save_png(name: &str, svg: &str, width: f64, height: f64) -> Result<(), JsValue> {
    let image = web_sys::HtmlImageElement::new()?;
    let loaded = js_sys::Promise::new(&mut |resolve, reject| {
        image.set_onload(Some(&resolve));
        image.set_onerror(Some(&reject));
    });
    let text = String::from(js_sys::encode_uri_component(svg));
    image.set_src(&format!("data:image/svg+xml;charset=utf-8,{text}"));
    JsFuture::from(loaded).await?;
    let canvas: web_sys::HtmlCanvasElement = dom::document().create_element("canvas")?.unchecked_into();
    canvas.set_width((width * DENSITY) as u32);
    canvas.set_height((height * DENSITY) as u32);
    let context: web_sys::CanvasRenderingContext2d = canvas
        .get_context("2d")?
        .ok_or_else(|| JsValue::from_str("this browser has no 2d canvas"))?
        .unchecked_into();
    context.scale(DENSITY, DENSITY)?;
    context.draw_image_with_html_image_element_and_dw_and_dh(&image, 0.0, 0.0, width, height)?;
    let blob = js_sys::Promise::new(&mut |resolve, reject| {
        if let Err(e) = canvas.to_blob(&resolve) {
            drop(reject.call1(&JsValue::UNDEFINED, &e));
        }
    });
    let blob: web_sys::Blob = JsFuture::from(blob).await?.dyn_into()?;
    let bytes = js_sys::Uint8Array::new(&JsFuture::from(blob.array_buffer()).await?).to_vec();
    dom::download(name, "image/png", &bytes)
}
