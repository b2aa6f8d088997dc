//! The one entry: an event in, effects out. Total: every event has an answer in every state.

use muster_proto::report::{Telemetry, TelemetryWindow, Vitals};
use muster_proto::transfer::Frame;

use super::Now;
use super::event::{Effect, Event};
use super::state::State;

/// Takes note of `event` and returns what is to be done, in this order.
pub fn step(state: &mut State, event: Event, now: Now) -> Vec<Effect> {
    let mut fx = Vec::new();
    state.handle(event, now, &mut fx);
    state.confirm_trials(now, &mut fx);
    state.release_held(now, &mut fx);
    state.load_again(now, &mut fx);
    state.advance_walk(now, &mut fx);
    state.schedule(now, &mut fx);
    state.repeat_outcomes(now, &mut fx);
    state.report_progress(now, &mut fx);
    state.flush_outbox(now, &mut fx);
    fx
}

impl State {
    fn handle(&mut self, event: Event, now: Now, fx: &mut Vec<Effect>) {
        match event {
            Event::Started => self.started(now, fx),
            Event::Stopping => {
                self.durable.clean_stop = true;
                self.persist(fx);
            }
            Event::LinkUp => {
                self.online = true;
                fx.push(Effect::SayHello);
                self.outbox.forget_in_flight();
                self.walk_lost_link();
                self.jobs_regained_link(now, fx);
                self.report_due = true;
                self.advance_jobs(now, fx);
            }
            Event::LinkDown => self.online = false,
            Event::DesiredArrived(bytes) => self.accept_desired(bytes, true, now, fx),
            Event::FrameArrived(frame) => self.frame(frame, now, fx),
            Event::Acknowledged(ids) => {
                self.unheard = self.unheard.filter(|(id, _)| !ids.contains(id));
                let removed = self.outbox.remove(&ids);
                if !removed.is_empty() {
                    fx.push(Effect::Remove(removed));
                }
            }
            Event::Ticked => self.advance_jobs(now, fx),
            Event::RoomMeasured { disk_free, memory_available } => {
                self.room_measured(disk_free, memory_available, now, fx);
            }
            Event::BlobOpened { digest, have } => self.blob_opened(digest, have, now, fx),
            Event::WriteFailed { digest, failure } => self.write_failed(digest, failure, now, fx),
            Event::FileAssembled { file, result } => self.file_assembled(file, result, now, fx),
            Event::ModelStaged { slot, digest, result } => self.staged(slot, digest, result, now, fx),
            Event::ModelLoaded { slot, digest, result } => self.loaded(slot, digest, result, now, fx),
            Event::Activated { slot, digest } => self.activated(&slot, digest, now),
            Event::PutFailed { id } => self.put_failed(id),
            Event::VetoChanged(veto) => self.veto = veto,
            Event::ShadowEnded { slot, digest, refused } => self.shadow_ended(&slot, digest, refused, fx),
            Event::WindowClosed { started_at, length_ms, slots, shadows, vitals } => {
                let dropped = self.durable.outbox_dropped;
                let make = |incarnation, id| {
                    let vitals = Vitals { outbox_dropped: dropped, ..vitals };
                    Telemetry::V2(TelemetryWindow { incarnation, id, started_at, length_ms, slots, shadows, vitals })
                };
                self.put_telemetry(make, now, fx);
            }
        }
    }

    fn frame(&mut self, frame: Frame, now: Now, fx: &mut Vec<Effect>) {
        match frame {
            Frame::ChunkV1 { object, chunk_size, index, total, data } => {
                let at = (chunk_size, index, total);
                if !self.walk_chunk(&object, at, &data, now, fx) {
                    self.install_chunk(&object, at, data, now, fx);
                }
                self.advance_jobs(now, fx);
            }
            Frame::MissingV1 { object, code } => {
                if !self.walk_missing(&object, now, fx) {
                    self.install_missing(&object, code, now, fx);
                }
            }
            Frame::DeltaV1 { want, offer } => self.delta_offered(want, offer, now, fx),
        }
    }
}
