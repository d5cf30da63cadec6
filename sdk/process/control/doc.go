// Package control is what an engine and a plugin's process say to each other off
// the data path: calls of gRPC with messages in JSON, on a Unix socket that
// go-plugin makes. Requests and completions do not come this way: they go through
// shared memory (package ring), whose descriptors travel over a second socket,
// which the process inherits: see FilesFD.
//
// Whoever writes a plugin calls process.Serve and needs nothing of this package.
//
// It must not know workers, machines or devices: both ends build on it.
package control
