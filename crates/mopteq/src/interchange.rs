//! Weights in the safetensors format.

use std::path::Path;

use burn::module::Module;
use burn_store::{ApplyResult, ModuleSnapshot, SafetensorsStore};

/// Weights that cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The bytes are not safetensors, the file cannot be read or written, or a tensor has a
    /// different shape or type.
    #[error("weights: {0}")]
    Store(String),
    /// Tensors of the model are not in the file.
    #[error("weights: the file lacks {} tensors of the model, the first is `{}`", .0.len(), .0[0])]
    Missing(Vec<String>),
    /// Tensors in the file do not belong to the model.
    #[error("weights: the model lacks {} tensors of the file, the first is `{}`", .0.len(), .0[0])]
    Unknown(Vec<String>),
}

impl WeightsError {
    pub(crate) fn store(error: impl std::fmt::Display) -> Self {
        Self::Store(error.to_string())
    }
}

/// Reads and writes safetensors for every module of Burn, and so for every model of this crate.
///
/// Every model writes and reads all its tensors, including buffers, under the path of its fields:
///
/// | model | tensors |
/// |---|---|
/// | [`MOptEqs`](crate::MOptEqs) | `stem.conv.weight`, `stem.norm.{gamma, beta, running_mean, running_var}`, `core.kernels.I.{weight, direction}`, `core.cross.K.kernel.{weight, direction}`, `injections.I.{weight, bias}`, `head.norms.I.*`, `head.linear.{weight, bias}`, `head.dense.{weight, bias}` |
/// | [`MultiView`](crate::multi_view::MultiView) | `readers.I.{stem.*, convolution.*, linear.*}`, `core.*`, `head.*` |
/// | [`Deep`](crate::Deep) | `stem.*`, `stages.S.K.norm.*`, `head.*`; codings of patches have `stages.S.K.implicit.dictionary.{weight, threshold, direction}`, codings of whole inputs `stages.S.K.implicit.dictionary.I.{weight, direction}`, other layers `stages.S.K.implicit.{injections.I.*, core.*}` |
/// | [`Residual`](crate::Residual) | `stem.*`, `stages.I.K.{first, first_norm, second, second_norm}.*`, `head.*` |
/// | [`Mdeq`](crate::Mdeq) | `downsample.K.{conv, norm}.*`, `stage0.*`, `full_stage.*`, `head.{incre_modules, downsamp_modules, final_layer}.*`, `classifier.*` |
///
/// I counts branches from 0, the finest. Linear weights are `[in, out]`, convolutions
/// `[out, in, k, k]`. A [`Network`](crate::Network) uses the names of the model that it holds. The
/// configuration is not in the file; save it separately, as JSON.
pub trait Weights: Module {
    /// All tensors as safetensors.
    ///
    /// # Errors
    ///
    /// Returns an error if a tensor cannot be read from its device.
    fn to_safetensors(&self) -> Result<Vec<u8>, WeightsError> {
        let mut store = SafetensorsStore::from_bytes(None).skip_enum_variants(true);
        self.save_into(&mut store).map_err(WeightsError::store)?;
        store.get_bytes().map_err(WeightsError::store)
    }

    /// Writes all tensors to a new safetensors file, whole or not at all.
    ///
    /// # Errors
    ///
    /// Returns an error if the file exists or cannot be written.
    fn write_safetensors(&self, path: &Path) -> Result<(), WeightsError> {
        let mut store = SafetensorsStore::from_file(path).skip_enum_variants(true);
        self.save_into(&mut store).map_err(WeightsError::store)
    }

    /// Loads the tensors from safetensors bytes.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not safetensors, or their names or shapes are not those of
    /// the module.
    fn load_safetensors(self, bytes: Vec<u8>) -> Result<Self, WeightsError> {
        load(self, SafetensorsStore::from_bytes(Some(bytes)))
    }

    /// Loads the tensors from a safetensors file.
    ///
    /// # Errors
    ///
    /// As [`load_safetensors`](Self::load_safetensors), and if the file cannot be read.
    fn read_safetensors(self, path: &Path) -> Result<Self, WeightsError> {
        load(self, SafetensorsStore::from_file(path))
    }
}

impl<M: Module> Weights for M {}

fn load<M: Module>(mut module: M, store: SafetensorsStore) -> Result<M, WeightsError> {
    // The store may load partially, so that missing tensors can be named here.
    let mut store = store
        .skip_enum_variants(true)
        .validate(false)
        .allow_partial(true);
    let result = module.load_from(&mut store).map_err(WeightsError::store)?;
    complete(result)?;
    Ok(module)
}

/// Returns an error unless the tensors of the model and of the file match one to one.
pub(crate) fn complete(result: ApplyResult) -> Result<(), WeightsError> {
    if let Some(error) = result.errors.first() {
        return Err(WeightsError::store(error));
    }
    if !result.missing.is_empty() {
        let missing = result.missing.into_iter().map(|(path, _)| path);
        return Err(WeightsError::Missing(missing.collect()));
    }
    if !result.unused.is_empty() {
        return Err(WeightsError::Unknown(result.unused));
    }
    Ok(())
}
