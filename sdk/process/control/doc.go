// Package control is what an engine and a plugin's process say to each other off
// the data path: calls of gRPC with messages in JSON, on a Unix socket that
// go-plugin makes in a directory of the engine's own. Requests and completions
// do not come this way: they go through shared memory, whose descriptors travel
// over the socket of package process (see ControlFD there).
//
// Whoever writes a plugin calls process.Serve and needs nothing of this package.
//
// It must not know rings, machines or devices: both ends build on it.
package control
