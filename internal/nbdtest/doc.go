// Package nbdtest is the kit that every end-to-end test of NBD uses: a strict
// client, a server that misbehaves on demand, a proxy that cuts and stalls, a
// model that judges histories, and helpers that run real servers and clients.
//
// It must not know the product: it has its own constants and its own codec, so
// that a mistake in one side of the wire cannot hide behind the same mistake in
// the other. It is imported by tests only.
//
// Where to read first: [Client] (client.go) to speak to a server under test,
// [Server] and [Rule] (server.go, fault.go) to be the server of a client under
// test, [Recorder] (model.go) to judge what a load saw, [Real] (real.go) to have
// a stock server.
//
// Everything that is started takes a testing.TB and ends in its Cleanup; what
// does not end within a bounded time fails the test and names the goroutine.
// [CheckLeaks] does the same for the code under test.
//
// Section names in comments are those of the public NBD protocol text
// (NetworkBlockDevice/nbd, doc/proto.md; extended headers: its branch
// extension-ext-header).
package nbdtest
