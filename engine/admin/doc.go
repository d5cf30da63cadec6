// Package admin is how commands talk to a running engine: HTTP with JSON over
// a Unix socket that only the engine's own user and root may use. Status is
// what they exchange.
//
// It is the control path: goroutines, locks and allocations are welcome. It
// knows nothing of volumes or frontends; whoever starts the Server gives it
// functions that tell.
package admin
