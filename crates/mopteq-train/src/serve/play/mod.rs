//! The page that shows an equilibrium being found, and what it asks the server.

mod controls;
mod hidden;
mod other;
mod page;
mod view;

use std::sync::mpsc::SyncSender;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use burn::prelude::*;
use mopteq::Network;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::TrainConfig;
use crate::crash;
use crate::data::{DataKind, Picture, PictureShape, Sample};
use crate::evaluate::batcher;
use crate::predict::{Predictor, ranked};
use controls::Controls;
pub(super) use page::page;
use view::{View, text};

/// Classes that are shown.
const TOP: usize = 3;
/// Example pictures of each class.
const EXAMPLES: usize = 10;

/// A picture to look at, and who waits for it.
pub(super) struct Look {
    pub(super) request: LookRequest,
    pub(super) expires: Instant,
    /// What there is to see, or how the device failed.
    pub(super) reply: SyncSender<Result<Value, String>>,
}

/// What a page sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LookRequest {
    /// Values in the model's shape, channel after channel, in base64, as the server prepared them
    /// from a picture before.
    picture: String,
    #[serde(default)]
    controls: Controls,
    #[serde(skip)]
    values: Vec<u8>,
}

impl LookRequest {
    /// Reads a request and checks everything in it.
    pub(super) fn parse(body: &[u8], shape: PictureShape) -> Result<Self, String> {
        let mut request: Self = serde_json::from_slice(body).map_err(|e| e.to_string())?;
        let values = STANDARD.decode(&request.picture);
        request.values = values.map_err(|error| format!("picture: no base64 ({error})"))?;
        if request.values.len() != shape.len() {
            let found = request.values.len();
            let message = format!(
                "picture: {found} values, but the model takes {}",
                shape.len()
            );
            return Err(message);
        }
        request.controls.check()?;
        Ok(request)
    }
}

/// A picture in the model's shape. The page shows it and sends it back.
pub(super) fn picture_json(values: &[u8], shape: PictureShape) -> Value {
    json!({
        "picture": STANDARD.encode(values),
        "channels": shape.channels, "height": shape.height, "width": shape.width,
    })
}

/// What a page must know of the model.
pub(super) fn describe(predictor: &Predictor, examples: usize) -> Value {
    let config = predictor.config();
    let shape = config.shape;
    let network = config.model.name();
    json!({
        "network": network,
        "parameters": predictor.model().num_parameters(),
        "checkpoint": predictor.position().to_string(),
        "classes": config.classes,
        "channels": shape.channels, "height": shape.height, "width": shape.width,
        // The user draws light strokes on black, as in the embedded digits.
        "drawable": shape.channels == 1,
        "digits": config.data.kind == DataKind::Digits,
        "controls": Controls::describe(config),
        "examples": examples,
    })
}

/// Pictures to begin with: test pictures of the embedded digits, for models that learnt from them.
pub(super) fn examples(config: &TrainConfig) -> Vec<Vec<u8>> {
    if config.data.kind != DataKind::Digits {
        return Vec::new();
    }
    let Ok(data) = config.data.load() else {
        return Vec::new();
    };
    if data.shape != config.shape {
        return Vec::new();
    }
    // In the order of a person who wants to see them all: 0, 1, ..., 9, 0, 1, ...
    let mut by_class: Vec<Vec<&Picture>> = vec![Vec::new(); data.classes.len()];
    for picture in &data.test {
        by_class[picture.label].push(picture);
    }
    let rounds =
        (0..EXAMPLES).flat_map(|round| by_class.iter().filter_map(move |all| all.get(round)));
    let values = rounds.filter_map(|picture| picture.pixels.read().ok());
    values.map(|values| values.into_owned()).collect()
}

/// Solves the picture as the controls say.
pub(super) fn look(predictor: &Predictor, request: &LookRequest) -> Result<Value, String> {
    let began = Instant::now();
    let found = crash::catch(|| find(predictor, request));
    let found = found.unwrap_or_else(|crash| Err(crash.message));
    let mut view = found?;
    view.milliseconds = began.elapsed().as_secs_f64() * 1e3;
    serde_json::to_value(view).map_err(text)
}

fn find(predictor: &Predictor, request: &LookRequest) -> Result<View, String> {
    let (config, device) = (predictor.config(), &predictor.device().device);
    let controls = &request.controls;
    let values = noisy(&request.values, controls, device)?;
    let picture = Picture::new(values.clone(), 0);
    let sample = Sample {
        picture: &picture,
        augmentation: None,
    };
    let batch = batcher(config).stack(&[sample]).map_err(text)?;
    let images = batch.to_device(device).images;
    let found = match predictor.model().network() {
        Network::MOptEqs(model) => hidden::look(model, images, controls)?,
        _ => other::look(predictor, images, controls)?,
    };
    let (mut stages, mut classes) = (found.stages, ranked(&found.logits, &config.classes));
    // The frames keep only the classes of the answer.
    let place = |class: &String| config.classes.iter().position(|known| known == class);
    classes.truncate(TOP);
    let places: Vec<usize> = classes.iter().filter_map(|l| place(&l.class)).collect();
    for frame in stages.iter_mut().flat_map(|stage| &mut stage.frames) {
        let chosen = places.iter().filter_map(|place| frame.classes.get(*place));
        frame.classes = chosen.copied().collect();
    }
    let calm = found
        .calm
        .and_then(|logits| ranked(&logits, &config.classes).into_iter().next());
    Ok(View {
        classes,
        calm,
        picture: STANDARD.encode(values),
        stages,
        milliseconds: 0.0,
    })
}

/// The picture with the noise of the controls: the same for the same seed.
fn noisy(values: &[u8], controls: &Controls, device: &Device) -> Result<Vec<u8>, String> {
    if controls.noise == 0.0 {
        return Ok(values.to_vec());
    }
    device.seed(controls.seed);
    let normal = burn::tensor::Distribution::Normal(0.0, 255.0 * controls.noise);
    let noise: Tensor<1> = Tensor::random([values.len()], normal, device);
    let noise: Vec<f64> = noise.try_into_vec_as().map_err(text)?;
    let pairs = values.iter().zip(noise);
    let sum =
        pairs.map(|(value, noise)| (f64::from(*value) + noise).round().clamp(0.0, 255.0) as u8);
    Ok(sum.collect())
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_checked_before_the_model_sees_it() {
        let shape = PictureShape {
            channels: 1,
            height: 1,
            width: 3,
        };
        let parse = |text: &str| LookRequest::parse(text.as_bytes(), shape).map(|r| r.values);
        assert_eq!(parse(r#"{"picture": "AAEC"}"#).unwrap(), [0, 1, 2]);
        for (text, part) in [
            (r#"{"picture": "AAEC", "controls": {"noise": 7}}"#, "noise"),
            (r#"{"picture": "AAE="}"#, "2 values"),
            (r#"{"picture": "???"}"#, "base64"),
            (r#"{"pictures": "AAEC"}"#, "unknown field"),
            ("[", "EOF"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn noise_depends_on_the_seed_alone() {
        let device = Device::flex();
        let values = vec![128; 500];
        let with = |noise, seed| {
            let controls = Controls {
                noise,
                seed,
                ..Controls::default()
            };
            noisy(&values, &controls, &device).unwrap()
        };
        assert_eq!(with(0.0, 1), values);
        assert_eq!(with(0.2, 1), with(0.2, 1));
        assert_ne!(with(0.2, 1), with(0.2, 2));
        let spread = with(0.1, 3)
            .iter()
            .map(|v| (f64::from(*v) - 128.0).powi(2))
            .sum::<f64>()
            / 500.0;
        assert!((20.0..31.0).contains(&spread.sqrt()), "{spread}");
    }
}
