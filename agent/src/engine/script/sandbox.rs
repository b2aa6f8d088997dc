//! The sandbox: the only user of wasmi. A module is compiled once; each call gets an instance of its own, with nothing
//! from outside but the bytes that it is given, and no more work, memory or time than it may have.
//!
//! wasmi is an interpreter, so that the same module runs alike on every processor; its `deterministic` feature settles
//! the bits of NaN, which is all that WebAssembly leaves open.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use muster_proto::manifest::{Hook, ScriptLimits};
use wasmi::errors::{ErrorKind, MemoryError, TableError};
use wasmi::{
    CompilationMode, Config, EnforcedLimits, Engine, ExternType, Instance, Memory, Module, ResourceLimiter, Store,
    StoreLimits, StoreLimitsBuilder, TrapCode, TypedFunc, TypedResumableCall, ValType, WasmParams, WasmResults,
};
use wasmi_core::LimiterError;

use super::Error;

/// How much fuel is burnt before somebody looks whether the result is still wanted: some milliseconds.
const SLICE: u64 = 1_000_000;
/// How deep functions may call one another.
const MAX_DEPTH: usize = 2000;
/// How much the values of all calls that are under way may take, in bytes.
const MAX_STACK: usize = 1 << 20;
/// How many entries the tables of an instance may have: function pointers, mostly.
const MAX_TABLE: usize = 100_000;
/// In a packed result, says that the text is the reason why there is no result.
const REFUSED: u32 = 1 << 31;
/// The longest part of a refusal that is kept, in characters.
const MAX_REFUSAL: usize = 1000;

/// A compiled module.
pub(super) struct Sandbox {
    module: Module,
    hooks: Vec<Hook>,
    limits: ScriptLimits,
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("hooks", &self.hooks).field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Compiles all of `bytes`, so that nothing of it is left to be found unusable later, and checks what it exports.
    pub(super) fn compile(bytes: &[u8], limits: ScriptLimits) -> Result<Self, Error> {
        let mut config = Config::default();
        config
            .consume_fuel(true)
            .compilation_mode(CompilationMode::Eager)
            .enforced_limits(EnforcedLimits::strict())
            .ignore_custom_sections(true)
            .set_max_recursion_depth(MAX_DEPTH)
            .set_max_stack_height(MAX_STACK)
            .wasm_multi_memory(false);
        let module = Module::new(&Engine::new(&config), bytes).map_err(|error| Error::Invalid(error.to_string()))?;
        if let Some(import) = module.imports().next() {
            let (from, name) = (import.module(), import.name());
            let hint =
                if from.starts_with("wasi") { ": build it without WASI, e.g. for wasm32-unknown-unknown" } else { "" };
            let text = format!("it imports {from}.{name}, and a script gets nothing from outside{hint}");
            return Err(Error::Invalid(text));
        }
        let hooks = exports(&module)?;
        let sandbox = Self { module, hooks, limits };
        // What cannot even begin is better known now than at the first request.
        for hook in &sandbox.hooks {
            Call::begin(&sandbox, *hook, &|| true).map_err(|error| Error::Invalid(error.to_string()))?;
        }
        Ok(sandbox)
    }

    /// The hooks that the module exports; at least one.
    pub(super) fn hooks(&self) -> &[Hook] {
        &self.hooks
    }

    /// Calls `hook` on `input` in a new instance; gives what it returned. `is_wanted` is asked every few milliseconds.
    /// A panic of the interpreter is an error of this call alone.
    pub(super) fn call(&self, hook: Hook, input: &[u8], is_wanted: &dyn Fn() -> bool) -> Result<Vec<u8>, Error> {
        let called = catch_unwind(AssertUnwindSafe(|| self.run(hook, input, is_wanted)));
        called.unwrap_or_else(|_| Err(Error::Failed { hook, reason: "the interpreter panicked".into() }))
    }

    fn run(&self, hook: Hook, input: &[u8], is_wanted: &dyn Fn() -> bool) -> Result<Vec<u8>, Error> {
        let failed = |reason: String| Error::Failed { hook, reason };
        let Ok(length) = i32::try_from(input.len()) else {
            return Err(Error::OutOfMemory { hook, limits: self.limits });
        };
        let mut call = Call::begin(self, hook, is_wanted)?;
        let place: i32 = call.run("alloc", length)?;
        let memory = call.memory()?;
        // Addresses and lengths are unsigned; WebAssembly's types do not say so.
        let at = place as u32 as usize;
        memory
            .write(&mut call.store, at, input)
            .map_err(|_| failed(format!("alloc({length}) gave {at}, which is no place for so much in its memory")))?;
        let packed: i64 = call.run(hook.name(), (place, length))?;
        let (at, length) = ((packed as u64 >> 32) as usize, packed as u32);
        let (length, is_refusal) = ((length & !REFUSED) as usize, length & REFUSED != 0);
        let whole = memory.data(&call.store);
        let said = at.checked_add(length).and_then(|end| whole.get(at..end));
        let said = said.ok_or_else(|| {
            failed(format!("it returned {length} bytes at {at}, which are not in its memory of {} bytes", whole.len()))
        })?;
        if is_refusal {
            return Err(Error::Refused(String::from_utf8_lossy(said).chars().take(MAX_REFUSAL).collect()));
        }
        Ok(said.to_vec())
    }
}

/// Checks that a module exports what the interface says; gives the hooks.
fn exports(module: &Module) -> Result<Vec<Hook>, Error> {
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(Error::Invalid("it exports no `memory`".into()));
    }
    let is_function = |name: &str, params: &[ValType], result: ValType| match module.get_export(name) {
        None => Ok(false),
        Some(ExternType::Func(ty)) if ty.params() == params && ty.results() == [result] => Ok(true),
        Some(_) => {
            let params = params.iter().map(|ty| format!("{ty:?}").to_lowercase()).collect::<Vec<_>>().join(", ");
            let result = format!("{result:?}").to_lowercase();
            Err(Error::Invalid(format!("its export `{name}` is not a function ({params}) -> {result}")))
        }
    };
    if !is_function("alloc", &[ValType::I32], ValType::I32)? {
        return Err(Error::Invalid("it exports no `alloc`".into()));
    }
    let mut hooks = Vec::new();
    for hook in Hook::ALL {
        if is_function(hook.name(), &[ValType::I32, ValType::I32], ValType::I64)? {
            hooks.push(*hook);
        }
    }
    if hooks.is_empty() {
        return Err(Error::Invalid("it exports neither `preprocess` nor `postprocess`".into()));
    }
    Ok(hooks)
}

/// The bounds of an instance. A growth for which there is no fuel in the store yet is no failure: it is tried again after
/// refuelling.
struct Bounds(StoreLimits);

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, now: usize, wanted: usize, most: Option<usize>) -> Result<bool, LimiterError> {
        self.0.memory_growing(now, wanted, most)
    }

    fn memory_grow_failed(&mut self, error: &MemoryError) -> Result<(), LimiterError> {
        match error {
            MemoryError::OutOfFuel { .. } => Ok(()),
            other => self.0.memory_grow_failed(other),
        }
    }

    fn table_growing(&mut self, now: usize, wanted: usize, most: Option<usize>) -> Result<bool, LimiterError> {
        self.0.table_growing(now, wanted, most)
    }

    fn table_grow_failed(&mut self, error: &TableError) -> Result<(), LimiterError> {
        match error {
            TableError::OutOfFuel { .. } => Ok(()),
            other => self.0.table_grow_failed(other),
        }
    }

    fn instances(&self) -> usize {
        self.0.instances()
    }

    fn tables(&self) -> usize {
        self.0.tables()
    }

    fn memories(&self) -> usize {
        self.0.memories()
    }
}

/// One call of a hook, with what is left of its fuel.
struct Call<'a> {
    store: Store<Bounds>,
    instance: Instance,
    hook: Hook,
    limits: ScriptLimits,
    /// The fuel that is not in the store yet.
    left: u64,
    is_wanted: &'a dyn Fn() -> bool,
}

impl<'a> Call<'a> {
    /// Makes an instance. A start function has to be done within one slice: it cannot be interrupted.
    fn begin(sandbox: &Sandbox, hook: Hook, is_wanted: &'a dyn Fn() -> bool) -> Result<Self, Error> {
        let limits = sandbox.limits;
        let bounds = StoreLimitsBuilder::new()
            .memory_size(usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX))
            .table_elements(MAX_TABLE)
            .memories(1)
            .instances(1)
            // Else a script goes on with less, and its own allocator ends it with a trap that tells nothing.
            .trap_on_grow_failure(true)
            .build();
        let mut store = Store::new(sandbox.module.engine(), Bounds(bounds));
        store.limiter(|bounds| bounds);
        let first = SLICE.min(limits.fuel);
        let fueled = store.set_fuel(first);
        let instance = fueled.and_then(|()| Instance::new(&mut store, &sandbox.module, &[]));
        let instance = instance.map_err(|error| fault(hook, limits, &error))?;
        Ok(Self { store, instance, hook, limits, left: limits.fuel - first, is_wanted })
    }

    fn memory(&self) -> Result<Memory, Error> {
        let memory = self.instance.get_memory(&self.store, "memory");
        memory.ok_or_else(|| Error::Failed { hook: self.hook, reason: "it has no memory".into() })
    }

    /// Runs the export called `name`, slice by slice.
    fn run<P: WasmParams, R: WasmResults>(&mut self, name: &str, params: P) -> Result<R, Error> {
        let (hook, limits) = (self.hook, self.limits);
        let function: TypedFunc<P, R> =
            self.instance.get_typed_func(&self.store, name).map_err(|error| fault(hook, limits, &error))?;
        let mut state = function.call_resumable(&mut self.store, params);
        loop {
            match state.map_err(|error| fault(hook, limits, &error))? {
                TypedResumableCall::Finished(result) => return Ok(result),
                TypedResumableCall::OutOfFuel(call) => {
                    self.refuel(call.required_fuel())?;
                    state = call.resume(&mut self.store);
                }
                // There is no host function that could trap.
                TypedResumableCall::HostTrap(call) => return Err(fault(hook, limits, call.host_error())),
            }
        }
    }

    /// Puts the next slice into the store, or as much as the next step needs.
    fn refuel(&mut self, needed: u64) -> Result<(), Error> {
        if !(self.is_wanted)() {
            return Err(Error::Stopped { hook: self.hook });
        }
        let unfit = |error: &wasmi::Error| fault(self.hook, self.limits, error);
        let rest = self.store.get_fuel().map_err(|error| unfit(&error))?;
        let more = SLICE.max(needed).min(self.left);
        if rest.saturating_add(more) < needed || more == 0 {
            return Err(Error::OutOfFuel { hook: self.hook, limits: self.limits });
        }
        self.store.set_fuel(rest.saturating_add(more)).map_err(|error| unfit(&error))?;
        self.left -= more;
        Ok(())
    }
}

/// What an error of wasmi means.
fn fault(hook: Hook, limits: ScriptLimits, error: &wasmi::Error) -> Error {
    let memory = |error: &MemoryError| !matches!(error, MemoryError::OutOfFuel { .. });
    match (error.as_trap_code(), error.kind()) {
        (Some(TrapCode::OutOfFuel), _) => Error::OutOfFuel { hook, limits },
        (Some(TrapCode::GrowthOperationLimited | TrapCode::OutOfSystemMemory), _) => {
            Error::OutOfMemory { hook, limits }
        }
        (_, ErrorKind::Memory(error)) if memory(error) => Error::OutOfMemory { hook, limits },
        _ => Error::Failed { hook, reason: error.to_string() },
    }
}
