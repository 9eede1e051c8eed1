//! Texts that a decoder writes: what it keeps of each (keys and values of its self-attention), and how they are repeated,
//! reordered and dropped while a search goes on.

use std::iter;

use tch::{Device, Kind, Tensor};

use super::EncoderDecoderShape;
use super::sources::{KeysValues, Memory, index};
use crate::error::ModelError;
use crate::layers::attend;

/// How many positions a cache has room for at first; then it doubles.
const ROOM: i64 = 32;

/// Targets of sources that were encoded together. All are equally long: they take a step together. Rows are numbered as
/// [`Targets::select`] last ordered them; at which place of the caches each lies is known here alone.
#[derive(Debug)]
pub struct Targets {
    memory: Memory,
    /// One a layer, `[places, heads, room, head_dim]`.
    caches: Vec<KeysValues>,
    /// Positions that are written, and those there is room for.
    length: i64,
    room: i64,
    /// The source of each place, rising.
    sources: Vec<usize>,
    /// The place of each row.
    places: Vec<usize>,
    layout: Layout,
}

/// How places lie beside the memory's sources, each of which has as many slots as the one with most places.
#[derive(Debug)]
enum Layout {
    /// Every source has as many places: slots are places.
    Even,
    /// The place in each slot (any, where the slot is free), and the slot of each place.
    Uneven { slots: Tensor, places: Tensor },
}

impl Targets {
    /// One target for each source of `memory`, nothing written yet.
    ///
    /// # Errors
    /// [`ModelError::Torch`] when libtorch refuses.
    pub fn new(memory: Memory, shape: &EncoderDecoderShape) -> Result<Targets, ModelError> {
        let count = memory.sources();
        let size = [count as i64, shape.heads, ROOM, shape.head_dim];
        let part = || Tensor::f_empty(size, (Kind::Float, memory.device()));
        let cache = |_| Ok(KeysValues { keys: part()?, values: part()? });
        Ok(Targets {
            caches: (0..memory.layers.len()).map(cache).collect::<Result<_, ModelError>>()?,
            memory,
            length: 0,
            room: ROOM,
            sources: (0..count).collect(),
            places: (0..count).collect(),
            layout: Layout::Even,
        })
    }

    /// How many targets there are.
    pub fn rows(&self) -> usize {
        self.places.len()
    }

    /// How many tokens each has.
    pub fn length(&self) -> usize {
        self.length as usize
    }

    pub(super) fn device(&self) -> Device {
        self.memory.device()
    }

    /// Row `i` becomes what row `rows[i]` was; rows that are not named are dropped.
    ///
    /// # Errors
    /// [`ModelError::Input`] when there is no such row, or none is left.
    pub fn select(&mut self, rows: &[usize]) -> Result<(), ModelError> {
        let place = |row: &usize| self.places.get(*row).copied();
        let parents: Option<Vec<usize>> = rows.iter().map(place).collect();
        match parents {
            Some(parents) if !parents.is_empty() => match fork(&self.sources, &parents) {
                Some((places, copies)) => {
                    self.copy(&copies)?;
                    self.places = places;
                    Ok(())
                }
                None => self.rebuild(&parents),
            },
            _ => Err(ModelError::Input(format!("rows {rows:?} of {} targets cannot be selected", self.rows()))),
        }
    }

    /// Copies places onto others.
    fn copy(&mut self, copies: &[Copy]) -> Result<(), ModelError> {
        if copies.is_empty() || self.length == 0 {
            return Ok(());
        }
        let (from, to): (Vec<usize>, Vec<usize>) = copies.iter().copied().unzip();
        let (from, to) = (index(&from, self.device())?, index(&to, self.device())?);
        for cache in &self.caches {
            for part in [&cache.keys, &cache.values] {
                let mut written = part.f_narrow(2, 0, self.length)?;
                let copied = written.f_index_select(0, &from)?;
                let _ = written.f_index_copy_(0, &to, &copied)?;
            }
        }
        Ok(())
    }

    /// Lays everything out anew: row `i` is what place `parents[i]` holds.
    fn rebuild(&mut self, parents: &[usize]) -> Result<(), ModelError> {
        let source_of = |place: usize| self.sources.get(place).copied().unwrap_or_default();
        let mut order: Vec<usize> = (0..parents.len()).collect();
        order.sort_by_key(|&row| parents.get(row).map(|&place| source_of(place)));
        let parent_of = |&row: &usize| parents.get(row).copied().unwrap_or_default();
        let chosen: Vec<usize> = order.iter().map(parent_of).collect();
        let mut sources: Vec<usize> = chosen.iter().map(|&place| source_of(place)).collect();
        let mut places = vec![0; parents.len()];
        for (place, &row) in order.iter().enumerate() {
            if let Some(slot) = places.get_mut(row) {
                *slot = place;
            }
        }
        let chosen = index(&chosen, self.device())?;
        let (length, room) = (self.length, self.room);
        let part = |part: &Tensor| -> Result<Tensor, ModelError> {
            let written = part.f_narrow(2, 0, length)?.f_index_select(0, &chosen)?;
            with_room(&written, room)
        };
        for cache in &mut self.caches {
            *cache = KeysValues { keys: part(&cache.keys)?, values: part(&cache.values)? };
        }
        // Sources that nothing is written from any more are dropped by halves: each copy of the rest is paid for by as many
        // that go.
        let mut alive = sources.clone();
        alive.dedup();
        if 2 * alive.len() <= self.memory.sources() {
            self.memory = self.memory.select(&alive)?;
            let rank = |source: &usize| alive.binary_search(source).unwrap_or_default();
            sources = sources.iter().map(rank).collect();
        }
        self.layout = layout(&sources, self.memory.sources(), self.device())?;
        (self.sources, self.places) = (sources, places);
        Ok(())
    }

    /// Makes room for `more` positions.
    pub(super) fn reserve(&mut self, more: i64) -> Result<(), ModelError> {
        if self.length + more > self.room {
            let room = (self.length + more).max(2 * self.room);
            let (length, grown) = (self.length, |part: &Tensor| with_room(part, room));
            for cache in &mut self.caches {
                let (keys, values) = (cache.keys.f_narrow(2, 0, length)?, cache.values.f_narrow(2, 0, length)?);
                *cache = KeysValues { keys: grown(&keys)?, values: grown(&values)? };
            }
            self.room = room;
        }
        Ok(())
    }

    /// Counts the positions that a step has written.
    pub(super) fn advance(&mut self, more: i64) {
        self.length += more;
    }

    /// The row at each place.
    pub(super) fn rows_by_place(&self) -> Vec<usize> {
        let mut rows = vec![0; self.places.len()];
        for (row, &place) in self.places.iter().enumerate() {
            if let Some(slot) = rows.get_mut(place) {
                *slot = row;
            }
        }
        rows
    }

    /// What lies by place, `[places, …]`, by row.
    pub(super) fn by_row(&self, by_place: Tensor) -> Result<Tensor, ModelError> {
        if self.places.iter().copied().eq(0..self.places.len()) {
            return Ok(by_place);
        }
        Ok(by_place.f_index_select(0, &index(&self.places, self.device())?)?)
    }

    /// Writes the keys and values of the next tokens, and lets their queries see them and what came before:
    /// `[places, tokens, 3, heads, head_dim]` → `[places, tokens, heads · head_dim]`.
    pub(super) fn attend_to_themselves(
        &self,
        layer: usize,
        qkv: &Tensor,
        mask: Option<&Tensor>,
        scale: f64,
    ) -> Result<Tensor, ModelError> {
        let cache = self.caches.get(layer).ok_or_else(|| no_layer(layer))?;
        let tokens = qkv.size().get(1).copied().unwrap_or_default();
        let part = |i: i64| qkv.f_select(2, i)?.f_transpose(1, 2); // [places, heads, tokens, head_dim]
        for (all, new) in [(&cache.keys, part(1)?), (&cache.values, part(2)?)] {
            all.f_narrow(2, self.length, tokens)?.f_copy_(&new)?;
        }
        let seen = |all: &Tensor| all.f_narrow(2, 0, self.length + tokens);
        attend(&part(0)?, &seen(&cache.keys)?, &seen(&cache.values)?, mask, scale)
    }

    /// Lets the queries of the next tokens see their sources: `[places, tokens, heads, head_dim]` →
    /// `[places, tokens, heads · head_dim]`.
    pub(super) fn attend_to_sources(&self, layer: usize, query: &Tensor, scale: f64) -> Result<Tensor, ModelError> {
        let read = self.memory.layers.get(layer).ok_or_else(|| no_layer(layer))?;
        let [_, tokens, heads, head_dim] = query.size()[..] else {
            return Err(ModelError::Input("queries need four dimensions".to_string()));
        };
        let query = match &self.layout {
            Layout::Even => query.shallow_clone(),
            Layout::Uneven { slots, .. } => query.f_index_select(0, slots)?,
        };
        // All places of a source are queries of the one text: it is read once for them.
        let query = query.f_view([self.memory.sources() as i64, -1, heads, head_dim])?.f_transpose(1, 2)?;
        let mixed = attend(&query, &read.keys, &read.values, self.memory.mask.as_ref(), scale)?;
        let mixed = mixed.f_reshape([-1, tokens, heads * head_dim])?;
        match &self.layout {
            Layout::Even => Ok(mixed),
            Layout::Uneven { places, .. } => Ok(mixed.f_index_select(0, places)?),
        }
    }
}

/// A place, and another that becomes what it is.
type Copy = (usize, usize);

/// The places of rows that copy `parents`, and what is to be copied where, when every source keeps as many places as it
/// has: a place's first child stays in it, and the others take places that no child has.
fn fork(sources: &[usize], parents: &[usize]) -> Option<(Vec<usize>, Vec<Copy>)> {
    if sources.len() != parents.len() {
        return None;
    }
    let mut taken = vec![false; sources.len()];
    let stays: Vec<bool> = parents
        .iter()
        .map(|&parent| taken.get_mut(parent).is_some_and(|taken| !std::mem::replace(taken, true)))
        .collect();
    let (mut places, mut copies) = (Vec::with_capacity(parents.len()), Vec::new());
    for (&parent, stays) in iter::zip(parents, stays) {
        if stays {
            places.push(parent);
            continue;
        }
        let source = sources.get(parent)?;
        let free = |(place, taken): (usize, &bool)| !taken && sources.get(place) == Some(source);
        let place = taken.iter().enumerate().position(free)?;
        *taken.get_mut(place)? = true;
        places.push(place);
        copies.push((parent, place));
    }
    Some((places, copies))
}

/// Lays places, whose sources rise, beside `count` sources.
fn layout(sources: &[usize], count: usize, device: Device) -> Result<Layout, ModelError> {
    let mut most = 0;
    let mut each = vec![0; count];
    for &source in sources {
        if let Some(places) = each.get_mut(source) {
            *places += 1;
            most = most.max(*places);
        }
    }
    if each.iter().all(|&places| places == most) {
        return Ok(Layout::Even);
    }
    let (mut slots, mut places, mut next) = (Vec::new(), Vec::new(), 0);
    for (source, &held) in each.iter().enumerate() {
        places.extend(source * most..source * most + held);
        slots.extend(next..next + held);
        slots.extend(iter::repeat_n(0, most - held));
        next += held;
    }
    Ok(Layout::Uneven { slots: index(&slots, device)?, places: index(&places, device)? })
}

/// What is written, `[places, heads, length, head_dim]`, in a tensor with room for `room` positions.
fn with_room(written: &Tensor, room: i64) -> Result<Tensor, ModelError> {
    let [places, heads, length, head_dim] = written.size()[..] else {
        return Err(ModelError::Input("a cache needs four dimensions".to_string()));
    };
    let roomy = Tensor::f_empty([places, heads, room, head_dim], (written.kind(), written.device()))?;
    roomy.f_narrow(2, 0, length)?.f_copy_(written)?;
    Ok(roomy)
}

fn no_layer(layer: usize) -> ModelError {
    ModelError::Input(format!("these targets were not made for a decoder with a layer {layer}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn children_stay_where_their_parents_were_if_they_can() {
        let sources = [0, 0, 0, 1, 1, 1];
        let (places, copies) = fork(&sources, &[1, 1, 0, 5, 5, 5]).unwrap();
        assert_eq!(places, [1, 2, 0, 5, 3, 4]);
        assert_eq!(copies, [(1, 2), (5, 3), (5, 4)]);
        assert!(fork(&sources, &[0, 1, 2, 0, 4, 5]).is_none(), "source 0 would need a fourth place");
        assert!(fork(&sources, &[0, 1]).is_none());
    }

    #[test]
    fn rows_follow_their_numbers_through_repeats_reorders_and_drops() {
        // Two sources of one layer with one head of width 1, so that what is kept can be read off.
        let part = || Tensor::from_slice(&[10.0_f32, 20.0]).view([2, 1, 1, 1]);
        let layers = vec![KeysValues { keys: part(), values: part() }];
        let memory = Memory::of(layers, vec![1, 1]);
        let shape = EncoderDecoderShape { heads: 1, head_dim: 1, ..EncoderDecoderShape::default() };
        let mut targets = Targets::new(memory, &shape).unwrap();
        let write = |targets: &mut Targets, values: &[f32]| {
            let by_place: Vec<f32> = targets.rows_by_place().iter().map(|&row| values[row]).collect();
            let qkv = Tensor::from_slice(&by_place).view([-1, 1, 1, 1, 1]).expand([-1, 1, 3, 1, 1], false);
            targets.reserve(1).unwrap();
            let _ = targets.attend_to_themselves(0, &qkv, None, 1.0).unwrap();
            targets.advance(1);
        };
        // What each row has written, and which source it reads.
        let read = |targets: &Targets| -> Vec<(Vec<f32>, f32)> {
            let written = targets.by_row(targets.caches[0].values.narrow(2, 0, targets.length).squeeze()).unwrap();
            let query = Tensor::ones([targets.rows() as i64, 1, 1, 1], (Kind::Float, Device::Cpu));
            let source = targets.by_row(targets.attend_to_sources(0, &query, 1.0).unwrap()).unwrap();
            let row =
                |i: i64| (Vec::try_from(written.get(i).view([-1])).unwrap(), source.double_value(&[i, 0, 0]) as f32);
            (0..targets.rows() as i64).map(row).collect()
        };
        write(&mut targets, &[1.0, 2.0]);
        targets.select(&[0, 0, 1, 1]).unwrap();
        write(&mut targets, &[3.0, 4.0, 5.0, 6.0]);
        targets.select(&[1, 1, 3, 2]).unwrap();
        write(&mut targets, &[7.0, 8.0, 9.0, 0.0]);
        let (first, second) = ((vec![1.0, 4.0, 7.0], 10.0), (vec![1.0, 4.0, 8.0], 10.0));
        let (third, fourth) = ((vec![2.0, 6.0, 9.0], 20.0), (vec![2.0, 5.0, 0.0], 20.0));
        assert_eq!(read(&targets), [first.clone(), second, third.clone(), fourth]);
        targets.select(&[2, 0, 2]).unwrap();
        assert_eq!(read(&targets), [third.clone(), first, third.clone()]);
        targets.select(&[2, 0]).unwrap();
        assert_eq!(targets.memory.sources(), 1);
        assert_eq!(read(&targets), [third.clone(), third]);
        assert!(targets.select(&[2]).is_err());
        assert!(targets.select(&[]).is_err());
    }
}
