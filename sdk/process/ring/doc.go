// Package ring is the memory that the engine shares with a plugin in a process
// of its own: where requests and their results, or events and actions, lie, and
// how each side learns that there is something for it. It is to processes what
// package abi is to WebAssembly.
//
// A region is a sealed memory file. The engine writes its Header and passes the
// file on, with an event counter; package process maps it. One region serves
// one link (Store) or one connection's state machine (Machine):
//
//	Store    header │ words │ submissions │ completions │ a buffer for each slot
//	Machine  header │ words │ events in │ actions out
//
// All integers are little endian. A word has one writer, but for the flags that
// say who is asleep. Sequence numbers run freely and wrap at 2^32: entry number n of a
// ring is at place n modulo the number of slots.
//
// Store. The engine fills Submission entries, then stores their number in
// SubTail. The process takes them, in order, and stores how many in SubHead. It
// fills Completion entries in the order in which requests end, and stores their
// number in CompTail. A slot is in use from its submission to its completion, so
// neither ring can be full. The payload of a request lies at the start of its
// slot's buffer, and so do the extents of a block status. Where the operator has
// wanted that, the payload may lie in the memory of a virtual machine instead: then
// Submission.Pieces says in how many pieces, which are at the start of the buffer.
//
// Machine. The engine puts events at the start of the one buffer, their length
// into CallIn, and adds one to SubTail. The process puts the actions at the start
// of the other, what Machine.Call gave into CallOut, and adds one to CompTail.
// Neither touches what is the other's turn.
//
// Waking. The process says in SubArmed that it sleeps, looks for the last time,
// and sleeps in FUTEX_WAIT on SubArmed itself; the engine, after it has stored
// SubTail, looks at SubArmed and calls FUTEX_WAKE. The engine says in CompArmed how
// it wants to be woken: by the event counter (WakeEvent) or FUTEX_WAKE on CompArmed
// (WakeFutex). Whoever wakes puts the flag back to 0 first, so that it wakes once;
// and since the flag is what is slept on, a wake that comes too early is not lost.
// A store that has to come before a look at the other side's word is a Swap: with
// the race detector in a program, its atomic Store to memory that is not Go's may
// come after a Load that follows it. Without, the two are the same instruction on
// amd64.
// The engine calls nothing that the process could make it block in: it never reads
// the counter, and its own way of waking is not a descriptor.
//
// The process is a stranger: the engine reads what it writes once, and checks it.
package ring
