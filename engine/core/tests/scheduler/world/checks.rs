//! What must hold after every operation, for every plan, and for every prefix hit.

use agentlm_core::BLOCK_SIZE;
use agentlm_core::arena::View;

use super::{End, Flight, Touched, World};
use crate::device::{Fault, demand};

impl World {
    /// What must hold for a plan by itself and against the steps that are not fenced.
    pub(super) fn check_plan(&mut self, flight: &Flight) -> Result<(), Fault> {
        let config = self.core.config();
        let step = flight.step.0;
        let view = View::new(&flight.arena, config.arena_layout()).map_err(|error| error.to_string())?;
        demand!(
            view.n_tokens() <= config.max_step_tokens,
            "step {step} has {} tokens",
            view.n_tokens()
        );
        demand!(
            view.n_scores() <= config.max_scores,
            "step {step} scores {} positions",
            view.n_scores()
        );
        for init in view.inits() {
            self.last_tenancy += 1;
            self.tenancies[init.row as usize] = self.last_tenancy;
            let serial = u32::try_from(init.seed & 0xffff_ffff).expect("a half");
            self.clients
                .get_mut(&serial)
                .ok_or("a row for an unknown request")?
                .admitted = true;
            let busy = self
                .unfenced
                .iter()
                .find(|touched| touched.rows.contains(&init.row));
            demand!(
                busy.is_none(),
                "step {step} re-uses row {} before the fence of its last step",
                init.row
            );
            let overtaken = self
                .clients
                .range(..serial)
                .find(|(_, c)| !c.admitted && c.end.is_none());
            demand!(
                overtaken.is_none(),
                "request {serial} overtakes {:?}",
                overtaken.map(|(serial, _)| serial)
            );
        }
        let mut touched = Touched {
            step,
            rows: Vec::new(),
            blocks: Vec::new(),
        };
        let tables = self.tables_after(&view);
        for entry in view.entries() {
            let end = entry.sample_position;
            demand!(
                entry.sample_index.is_some() || end % BLOCK_SIZE == 0,
                "step {step} cuts a prefill at {end}, off the block border"
            );
            let tenancy = self.tenancies[entry.row as usize];
            touched.rows.push(entry.row);
            for place in 0..end.div_ceil(BLOCK_SIZE) {
                let Some(&block) = tables[entry.row as usize].get(place as usize) else {
                    continue;
                };
                touched.blocks.push((block, tenancy));
                let writes = place >= entry.computed / BLOCK_SIZE;
                let others = self.unfenced.iter().flat_map(|touched| &touched.blocks);
                let busy = writes
                    && others
                        .clone()
                        .any(|&(other, whose)| other == block && whose != tenancy);
                demand!(
                    !busy,
                    "step {step} writes block {block} before the fence of another's step"
                );
            }
        }
        self.unfenced.push_back(touched);
        Ok(())
    }

    /// The block tables as they will be once everything planned has run.
    fn tables_after(&self, view: &View) -> Vec<Vec<u32>> {
        let layout = self.core.config().arena_layout();
        let mut tables: Vec<Vec<u32>> = self.device.rows.iter().map(|row| row.table().to_vec()).collect();
        tables
            .iter_mut()
            .for_each(|table| table.resize(layout.blocks_per_row(), u32::MAX));
        let pending = self.in_flight.iter().filter(|flight| !flight.has_run);
        let views = pending.filter_map(|flight| View::new(&flight.arena, layout).ok());
        for view in views.chain([*view]) {
            for diff in view.block_diffs() {
                let start = diff.start as usize;
                tables[diff.row as usize][start..start + diff.blocks.len()].copy_from_slice(diff.blocks);
            }
        }
        tables
    }

    /// A prefix hit may only reach KV that was committed when it was planned, and nothing past a stop string.
    pub(super) fn check_hits(&self, flight: &Flight) -> Result<(), Fault> {
        let view = View::new(&flight.arena, self.core.config().arena_layout()).map_err(|e| e.to_string())?;
        for init in view.inits() {
            let row = &self.device.rows[init.row as usize];
            let entry = view
                .entries()
                .find(|entry| entry.row == init.row)
                .ok_or("a row without an entry")?;
            for position in 0..entry.computed {
                let cell = self.device.kv[self.device.address(row, position)?];
                demand!(
                    cell.step <= flight.committed_at_plan,
                    "step {} reads position {position}, written by uncommitted step {}",
                    flight.step.0,
                    cell.step
                );
                let writer = &self.clients[&cell.writer];
                // A hit that was planned before the stop string was found is none of its business.
                if let Some(End::Stopped(at)) = writer.end
                    && writer.ended_after < flight.step.0
                {
                    let kept = writer.prompt.len() + at as usize;
                    let kept = kept / BLOCK_SIZE as usize * BLOCK_SIZE as usize;
                    demand!(
                        (position as usize) < kept,
                        "step {} hits tokens past a stop string",
                        flight.step.0
                    );
                }
            }
        }
        Ok(())
    }

    pub(super) fn check(&self) -> Result<(), Fault> {
        self.core.check().map_err(|error| error.to_string())?;
        let live = self
            .clients
            .values()
            .filter(|client| client.end.is_none())
            .count();
        demand!(
            self.core.live() == live,
            "the core has {} requests, the clients {live}",
            self.core.live()
        );
        Ok(())
    }
}
