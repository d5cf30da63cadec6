// Package pluginhost knows which plugins are loaded and opens volumes on them.
// A Registry loads each plugin that the configuration names, whatever its
// runtime, for all volumes that use it; a Disk is one configured volume on its
// way to being open, and stays with it until it is closed; an Upgrader replaces
// plugins while their volumes are in use, watches what has come, and goes back.
//
// It knows the configuration, both plugin contracts and sessions. How a volume
// goes over without failing a request is the session's part. It must not know
// frontends, nor any plugin by name: whoever makes the Registry says which ones
// are builtin.
//
// Read first: registry.go, then disk.go. For upgrades: upgrade.go says what
// there is, line.go which generations there are, takeover.go what happens in
// which order; judge.go decides what is worse than before.
package pluginhost
