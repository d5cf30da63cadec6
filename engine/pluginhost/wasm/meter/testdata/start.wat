;; A start function that counts to what its import says.
(module
  (import "env" "rounds" (func $rounds (result i64)))
  (global $done (export "done") (mut i64) (i64.const 0))
  (func $main
    (local $n i64)
    (local.set $n (call $rounds))
    (loop $l
      (global.set $done (i64.add (global.get $done) (i64.const 1)))
      (br_if $l (i64.lt_u (global.get $done) (local.get $n)))))
  (start $main))
