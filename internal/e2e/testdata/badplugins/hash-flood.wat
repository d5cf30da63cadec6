;; Has the engine hash each write's whole payload as often as a call allows.
(func $request (param $p i32)
  (local $i i32)
  (if (i32.ne (i32.load8_u offset=16 (local.get $p)) (i32.const 2)) (then (call $answer (local.get $p)) (return)))
  (local.set $i (i32.const 1500))
  (loop $l
    (call $head (i64.const 23) (i64.const 40))
    (call $put (i64.const 0x200000000)) (call $put (i64.load offset=8 (local.get $p)))
    (call $put (i64.const 0)) (call $put (i64.load offset=32 (local.get $p)))
    (local.set $i (i32.sub (local.get $i) (i32.const 1)))
    (br_if $l (local.get $i))))
