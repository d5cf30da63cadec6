;; Gives a length that is no multiple of 8.
(func $request (param $p i32) (call $answer (local.get $p)) (global.set $n (i32.const 12)))
