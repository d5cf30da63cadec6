// Package config reads engine.toml, the file an operator writes (DESIGN,
// chapter 7), and hands it on as plain typed values.
//
// It is strict: a key nobody knows, a value of the wrong type, a name that
// refers to nothing and two listeners on one address are all problems, and all
// problems of a file are reported at once, each with its line and the way to
// mend it. What only a running engine can know is left to others: whether a
// plugin file is WebAssembly, which options a plugin takes, whether a socket is
// free. The values therefore remember where they stand in the file, so that
// whoever finds such a fault can report it in the same form.
//
// The file is the operator's, and nobody else writes it. What an upgrade has
// brought is kept beside it, in drop-ins in the state directory (dropin.go,
// written by Config.Keep): each stands in for one plugin's source while the file
// still says what it said then.
//
// The package must know neither plugins' manifests nor frontends, and opens
// nothing but the file itself and the drop-ins.
//
// Read first: Parse in config.go (the order of the steps), then section.go (how
// one table is read) and lines.go (where line numbers come from).
package config
