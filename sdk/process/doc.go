// Package process makes a program of a plugin: the engine starts it, talks to it
// over gRPC, and hands it requests in shared memory. All of a plugin's main is
//
//	func main() { process.Serve(process.Options{Store: myplugin.New()}) }
//
// with Store for a plugin that does its own I/O (package store), or Protocol for
// one that encapsulates only (package protocol), which runs here as it runs
// linked into the engine or compiled to WebAssembly.
//
// What the process may do is the engine's to say: by default it has no network,
// sees files but cannot write them, and is killed when it takes more memory than
// its configuration allows. Whatever it writes to os.Stdout and os.Stderr becomes
// lines of the engine's log, some a second.
//
// Read first: sdk/PLUGIN.md. Here: serve.go (a process's life), control.go (what
// the engine asks), worker.go (requests).
package process
