// Package process runs plugins in processes of their own: store plugins, and
// protocol plugins as well as the other runtimes do. A process is started from
// the bytes that were hashed, in a sandbox, under go-plugin; it is asked over
// gRPC (sdk/process/control), and handed requests in shared memory (package ring).
//
// Everything that comes from a process is a stranger's: what it answers, where
// it says that it listens, what it writes into shared memory, how much it logs,
// when it ends.
//
// It must not know volumes and sessions: see package guest for the seam.
//
// Read first: host.go (which process runs, and what happens when it dies), then
// proc.go (one process), link.go and instance.go (the data path).
package process
