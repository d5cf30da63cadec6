// Package reactor runs event loops: one locked OS thread each, with epoll,
// timers, a mailbox and work that is put off to the end of a turn. Everything
// that belongs to a reactor (a connection, a queue, a channel of a volume) is
// touched on that reactor only; so nothing there needs a lock.
//
// It must not know what runs on it: it imports engine/sys only.
//
// A turn: wait for events (spinning for a while before sleeping), handle each,
// deliver mail, fire timers, run deferred work, and that again until none is
// left. Batching comes from this order: what many events complete is handed on
// once, by deferred work, at the end.
package reactor
