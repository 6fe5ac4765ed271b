//! Keys of a model of characters, stored in blocks with one exponent, their channels in an order.

use memwall_formats::{Format, scaled};
use memwall_quantize::KeyOrder;
use memwall_tasks::Philox;

use super::simulation::stored;
use crate::Error;
use crate::characters::Windows;
use crate::decoder::{Decoder, Hooks, name};
use crate::planted::Planted;

/// What keys are stored in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    /// f32.
    Plain,
    /// Mantissas of so many bits, blocks of 16 channels, in an order.
    Bfp(u32, Order),
}

/// The order of channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    AsTheyAre,
    /// By norms of the rows of `k_proj`.
    ByWeight,
    /// By root mean squares of keys on a part of the text that is not scored.
    ByKeys,
    Random,
}

/// Mean nats of a character, keys stored so.
pub(super) fn loss(model: &Planted, windows: &Windows, calibration: &Windows, keys: Keys) -> Result<f64, Error> {
    let decoder = &model.decoder;
    let mut stored = match keys {
        Keys::Plain => Stored { width: decoder.width, format: None, orders: vec![None; decoder.layers] },
        Keys::Bfp(bits, order) => {
            let format = scaled::bfp(bits, 16.min(decoder.head_dim())).map_err(Error::experiment)?;
            let orders = orders(model, order, calibration)?;
            Stored { width: decoder.width, format: Some(Box::new(format)), orders }
        }
    };
    decoder.loss(windows, &mut stored)
}

/// Keys go through a format.
struct Stored {
    width: usize,
    format: Option<Box<dyn Format>>,
    orders: Vec<Option<KeyOrder>>,
}

impl Hooks for Stored {
    fn rotated(&mut self, layer: usize, _: &[f32], [_, k, _]: &mut [Vec<f32>; 3]) -> Result<(), Error> {
        if let Some(format) = &self.format {
            let back = stored(&**format, self.orders[layer].as_ref(), self.width, k)?;
            k.copy_from_slice(&back);
        }
        Ok(())
    }
}

/// Sums of squares of keys, by layer and channel.
struct Squares(Vec<Vec<f32>>);

impl Hooks for Squares {
    fn rotated(&mut self, layer: usize, _: &[f32], [_, k, _]: &mut [Vec<f32>; 3]) -> Result<(), Error> {
        let sums = &mut self.0[layer];
        for row in k.chunks(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(sum, k)| *sum += k * k);
        }
        Ok(())
    }
}

/// The order of each layer's key heads.
fn orders(model: &Planted, order: Order, calibration: &Windows) -> Result<Vec<Option<KeyOrder>>, Error> {
    let decoder: &Decoder = &model.decoder;
    let (layers, width) = (decoder.layers, decoder.width);
    let sizes: Vec<Vec<f32>> = match order {
        Order::AsTheyAre => return Ok(vec![None; layers]),
        Order::Random => {
            let mut rng = Philox::new(model.seed, 73);
            (0..layers).map(|_| (0..width).map(|_| rng.unit() as f32).collect()).collect()
        }
        Order::ByWeight => {
            let norm = |row: &[f32]| row.iter().map(|w| w * w).sum::<f32>().sqrt();
            let of = |layer| decoder.weight(&name(layer, "self_attn.k_proj")).chunks(width).map(norm).collect();
            (0..layers).map(of).collect()
        }
        Order::ByKeys => {
            let mut squares = Squares(vec![vec![0f32; width]; layers]);
            for (ids, _) in calibration {
                decoder.forward(ids, &mut squares)?;
            }
            squares.0
        }
    };
    let of = |sizes: &Vec<f32>| Ok(Some(KeyOrder::by_size(decoder.heads, sizes).map_err(Error::experiment)?));
    sizes.iter().map(of).collect()
}
