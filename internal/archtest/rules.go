package archtest

// Names of folders that several rows mention.
const (
	project   = "./..."
	command   = "./engine"
	engine    = "./engine/..."
	sdk       = "./sdk/..."
	plugins   = "./plugins/..."
	frontends = "./frontends/..."
	sys       = "./engine/sys"
	reactor   = "./engine/reactor"
	volume    = "./engine/volume"
	session   = "./engine/session"
	transport = "./engine/transport"
	host      = "./engine/pluginhost/..."
	guest     = "./engine/pluginhost/guest"
	builtin   = "./engine/pluginhost/builtin"
	wasmHost  = "./engine/pluginhost/wasm/..."
	metrics   = "./engine/metrics"
	kit       = "./engine/kit"

	sdktestKit = "./sdk/sdktest/..."
)

// Rules are the bans of the project.
var Rules = []Rule{
	{
		Name: "sdk stands alone",
		From: []string{sdk}, To: []string{project}, ToExcept: []string{sdk}, Tests: true,
		Reason: "third parties build plugins against sdk alone; what it imported would become part of their contract",
	}, {
		Name: "sdk has no dependencies",
		From: []string{sdk}, FromExcept: []string{"./sdk/process/..."},
		To:     []string{"github.com/...", "golang.org/...", "google.golang.org/...", "gopkg.in/...", "honnef.co/..."},
		Reason: "whoever writes a plugin takes on the standard library and nothing else (our own tests may run it in wazero)",
	}, {
		Name: "processes speak go-plugin",
		From: []string{project}, FromExcept: []string{"./sdk/process/...", "./engine/pluginhost/process/..."},
		To:     []string{"github.com/hashicorp/...", "google.golang.org/grpc/..."},
		Reason: "control of plugin processes has two ends; nobody else starts processes or calls procedures",
	}, {
		Name: "processes are a runtime",
		From: []string{"./engine/pluginhost/process/..."}, To: []string{project},
		ToExcept: []string{sdk, guest, reactor, sys, "./engine/pluginhost/process/...", "./engine/pluginhost/sandbox"},
		Reason:   "it runs plugins and knows what crosses the boundary; volumes and sessions are not its business",
	}, {
		Name: "the sandbox holds any process",
		From: []string{"./engine/pluginhost/sandbox"}, To: []string{project}, ToExcept: []string{sys},
		Reason: "it starts and ends processes; what they are for is not its business",
	}, {
		Name: "guests have no system",
		From: []string{"./sdk/block", "./sdk/abi", "./sdk/manifest", "./sdk/protocol", "./sdk/wasm"},
		To:   []string{"fmt", "log/...", "os/...", "net/...", "time", "syscall", "math/rand/...", "crypto/rand"},
		Reason: "these are compiled into every sandboxed plugin, which has no files, network, clock or randomness; " +
			"such an import makes the module ask for them, be refused, and grow",
	}, {
		Name: "plugins know only sdk",
		From: []string{plugins}, To: []string{project}, ToExcept: []string{sdk, sameUnit},
		Reason: "ours are written as a third party writes them; what they reached around the contract, others could not",
	}, {
		Name: "frontends know the submission seam",
		From: []string{frontends}, To: []string{project},
		ToExcept: []string{volume, reactor, sys, "./engine/iouring", "./sdk/block", sameUnit, frontends},
		Reason:   "a frontend hands requests to a volume and must not see which plugin, runtime or session is behind it",
	}, {
		Name: "frontends are apart",
		From: []string{frontends}, FromExcept: []string{"./frontends/vhostuser/..."},
		To: []string{frontends}, ToExcept: []string{sameUnit},
		Reason: "what two of them share belongs below them; only vhostuser builds on virtqueue and virtioblk",
	}, {
		Name: "vhostuser builds on virtio",
		From: []string{"./frontends/vhostuser/..."}, To: []string{frontends},
		ToExcept: []string{sameUnit, "./frontends/virtqueue/...", "./frontends/virtioblk/..."},
		Reason:   "it is a transport of virtio; the other frontends are strangers to it",
	}, {
		Name: "one door to the kernel",
		From: []string{project}, FromExcept: []string{sys}, To: []string{"golang.org/x/sys/..."}, Tests: true,
		Reason: "engine/sys keeps every errno and every call that could block a reactor in one place; add what you need there",
	}, {
		Name: "sys is the floor",
		From: []string{sys}, To: []string{project},
		Reason: "everything stands on it, so it stands on nothing of the project",
	}, {
		Name: "config reads a file",
		From: []string{"./engine/config/..."}, To: []string{project}, ToExcept: []string{sameUnit},
		Reason: "it hands plain values on; what they do is checked by whoever uses them",
	}, {
		Name: "reactor knows no requests",
		From: []string{reactor}, To: []string{project}, ToExcept: []string{sys},
		Reason: "it turns events of the kernel into calls, for everyone alike",
	}, {
		Name: "transport moves bytes",
		From: []string{transport}, To: []string{project}, ToExcept: []string{reactor, sys},
		Reason: "it connects, sends and receives; what the bytes mean is the session's and the plugin's",
	}, {
		Name: "volume decides, others carry out",
		From: []string{volume}, To: []string{session, host, transport, frontends, plugins},
		Reason: "a volume sees a device to submit to; were it to know who is behind it, every runtime would change it",
	}, {
		Name: "session serves any plugin",
		From: []string{session}, To: []string{frontends, plugins, host}, ToExcept: []string{guest},
		Reason: "it drives the one face that all runtimes show (pluginhost/guest), for requests of every frontend",
	}, {
		Name: "comparing is no doing",
		From: []string{"./engine/pluginhost/compare"}, To: []string{project}, ToExcept: []string{sdk, guest},
		Reason: "a shadow's actions are looked at and never carried out: nothing that could is at hand",
	}, {
		Name: "guest is a face",
		From: []string{guest}, To: []string{project}, ToExcept: []string{sdk, reactor},
		Reason: "runtimes and sessions both know it, so it can know neither; reactors are what both run on",
	}, {
		Name: "wasm runs modules",
		From: []string{wasmHost}, To: []string{project}, ToExcept: []string{sdk, guest, wasmHost, sys},
		Reason: "a runtime executes calls into a sandbox; sockets, volumes and other runtimes are not its business",
	}, {
		Name: "builtin stores are plugins",
		From: []string{builtin}, To: []string{project}, ToExcept: []string{sdk, sys, "./engine/iouring"},
		Reason: "they are linked in, but hold to the store contract like everybody's; engine/sys is for system calls, engine/iouring for many at once",
	}, {
		Name: "plugins are linked in one place",
		From: []string{engine}, FromExcept: []string{command}, To: []string{plugins},
		Reason: "the command says which plugins are builtin; below it, any plugin is as good as another",
	}, {
		Name: "frontends are wired in one place",
		From: []string{engine}, FromExcept: []string{command}, To: []string{frontends},
		Reason: "requests go down from a frontend, results come back through the request; nothing below calls up",
	}, {
		Name: "the command is nobody's library",
		From: []string{project}, To: []string{command}, Tests: true,
		Reason: "package main wires the parts together; what others need of it is a part of its own",
	}, {
		Name: "wazero has one user",
		From: []string{project}, FromExcept: []string{wasmHost}, To: []string{"github.com/tetratelabs/wazero/..."},
		Reason: "the sandbox's walls (metering, memory, imports) are in engine/pluginhost/wasm; a second user would go around them",
	}, {
		Name: "cobra has one user",
		From: []string{project}, FromExcept: []string{command}, To: []string{"github.com/spf13/..."}, Tests: true,
		Reason: "command lines are the command's; libraries take values",
	}, {
		Name: "prometheus has one user",
		From: []string{project}, FromExcept: []string{metrics}, To: []string{"github.com/prometheus/..."},
		Reason: "parts count into plain fields that cost nothing to keep; engine/metrics reads them when it is asked",
	}, {
		Name: "TOML has one user",
		From: []string{project}, FromExcept: []string{"./engine/config"}, To: []string{"github.com/BurntSushi/..."},
		Reason: "one strict reader, so that a key is unknown to all or to none",
	}, {
		Name: "test kits are for tests",
		From: []string{project}, FromExcept: []string{"./internal/nbdtest/...", "./internal/vmtest/...", sdktestKit},
		To:     []string{"./internal/nbdtest/...", "./internal/vmtest/...", "testing/...", "github.com/anishathalye/porcupine/..."},
		Reason: "they panic, judge and print, and would be linked into what users run",
	}, {
		Name: "the conformance suite has one user",
		From: []string{project}, FromExcept: []string{sdktestKit, kit}, To: []string{sdktestKit},
		Reason: "it judges plugins for those who write them: engine/kit runs it for \"engine plugin test\"; nothing that serves may hold it",
	}, {
		Name: "the conformance suite is no test",
		From: []string{"./sdk/sdktest"}, To: []string{"testing/...", "flag"}, Tests: false,
		Reason: "it is linked into the command, which has its own runner and its own flags",
	}, {
		Name: "the kit is for authors",
		From: []string{engine}, FromExcept: []string{command, kit}, To: []string{kit, "./examples", "./sdk"},
		Reason: "it writes and tries plugins; what serves them has no need of it, nor of the sources that it hands out",
	}, {
		Name: "examples know only sdk",
		From: []string{"./examples/..."}, To: []string{project}, ToExcept: []string{sdk, sameUnit},
		Reason: "they are what third parties start from",
	}, {
		Name: "the benchmark is a stranger",
		From: []string{"./bench/..."}, To: []string{project}, ToExcept: []string{sameUnit, sdk, "./internal/nbdload", "./internal/vhosttest"},
		Reason: "it drives the engine from outside, as it drives the peers; nothing of the engine may run in the measuring process",
	}, {
		Name: "the load client is a stranger",
		From: []string{"./internal/nbdload/..."}, To: []string{project}, ToExcept: []string{sameUnit},
		Reason: "it judges what it reads; with code of the engine it would make the engine's mistakes",
	}, {
		Name: "the virtual machine is a stranger",
		From: []string{"./internal/vhosttest/..."}, To: []string{project}, ToExcept: []string{sameUnit, sys},
		Reason: "it judges rings and messages; where it and the engine read the specification differently a test is to fail",
	},
}
