import Base
import FoundationEssentials
import MesosAPI
import SwiftProtobuf
import Testing

@Suite struct JSONEncodeTests {
    @Test func unsetFieldsWithDefaultsArePrinted() {
        var framework = MesosFrameworkInfo()
        framework.user = "root"
        framework.name = "batch"
        #expect(
            jsonEncode(framework).text
                == #"{"user":"root","name":"batch","failover_timeout":0.0,"checkpoint":false}"#)
    }

    @Test func membersFollowTheSchema() throws {
        var status = MesosTaskStatus()
        status.taskID = MesosTaskID("t")
        status.state = .taskRunning
        status.source = .executor
        status.uuid = .init([UInt8](0..<16))
        status.timestamp = 5
        #expect(
            jsonEncode(status).text
                == #"{"task_id":{"value":"t"},"state":"TASK_RUNNING","source":"SOURCE_EXECUTOR","timestamp":5.0,"uuid":"AAECAwQFBgcICQoLDA0ODw=="}"#
        )
    }

    @Test func wideIntegersAndInfinitiesAndMaps() {
        var task = MesosTaskInfo()
        var limit = MesosValue.Scalar()
        limit.value = .infinity
        task.limits["mem"] = limit
        #expect(jsonEncode(task).text == #"{"limits":{"mem":{"value":"Infinity"}}}"#)
        var time = MesosTimeInfo()
        time.nanoseconds = 1_700_000_000_000_000_001
        #expect(jsonEncode(time).text == #"{"nanoseconds":1700000000000000001}"#)
    }
}

@Suite struct JSONDecodeTests {
    @Test func acceptsWhatClientsSend() throws {
        let text = #"""
            {"type":"SUBSCRIBE","unknown":[1,{"a":2}],"subscribe":{"framework_info":{"user":"u","name":"n",
            "failover_timeout":"100","checkpoint":"true","roles":"solo","id":null,
            "capabilities":[{"type":"MULTI_ROLE"},{"type":"NOT_YET_INVENTED"}]}}}
            """#
        let call = try jsonDecode(SchedulerCall.self, from: Array(text.utf8))
        #expect(call.type == .subscribe)
        let info = call.subscribe.frameworkInfo
        #expect(info.failoverTimeout == 100)
        #expect(info.checkpoint)
        #expect(info.roles == ["solo"])
        #expect(!info.hasID)
        #expect(info.capabilities.map(\.hasType) == [true, false])
    }

    @Test func missingFieldsAreNamedByPath() {
        let text =
            #"{"type":"ACCEPT","accept":{"offer_ids":[{}],"operations":[{"launch":{"task_infos":[{"name":"x"}]}}]}}"#
        #expect {
            try jsonDecode(SchedulerCall.self, from: Array(text.utf8))
        } throws: { error in
            (error as? MesosJSONError)?.message
                == "Missing required fields: accept.offer_ids[0].value, accept.operations[0].launch.task_infos[0].task_id, accept.operations[0].launch.task_infos[0].agent_id"
        }
    }

    @Test(arguments: [
        (#"{"type":3}"#, "Not expecting a JSON number for field 'type'"),
        (#"{"framework_id":"x"}"#, "Not expecting a JSON string for field 'framework_id'"),
        (#"{"framework_id":[{"value":"x"}]}"#, "Not expecting a JSON array for field 'framework_id'"),
        (#"{"framework_id":{"value":1}}"#, "Not expecting a JSON number for field 'value'"),
        (#"{"acknowledge":{"uuid":"***"}}"#, "Failed to base64 decode bytes field 'uuid' value: '***'"),
        ("[]", "Expecting a JSON object"),
    ])
    func wrongTypesAreErrors(text: String, message: String) {
        #expect {
            try jsonDecode(SchedulerCall.self, from: Array(text.utf8))
        } throws: { error in (error as? MesosJSONError)?.message == message }
    }

    @Test func randomBytesNeverCrash() {
        var rng = SeededRandom(seed: 7)
        let seed = Array(
            #"{"type":"ACCEPT","accept":{"offer_ids":[{"value":"o"}],"filters":{"refuse_seconds":1e3}}}"#.utf8)
        for _ in 0..<5000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...4, using: &rng) {
                bytes[Int.random(in: 0..<bytes.count, using: &rng)] = UInt8.random(in: 0...255, using: &rng)
            }
            _ = try? jsonDecode(SchedulerCall.self, from: bytes)
            _ = try? MediaType.protobuf.decode(SchedulerCall.self, from: bytes)
        }
    }

    /// Fields of every wire type under every number that a framework knows, and under one that it does not.
    @Test func fieldsOfOtherTypesAreNotHandedOn() throws {
        func key(_ number: UInt8, _ type: UInt8) -> UInt8 { number << 3 | type }
        var framework = MesosFrameworkInfo()
        framework.user = "u"
        framework.name = "n"
        let known: [UInt8] = try framework.serializedBytes()
        for number in UInt8(1)...15 {
            let strays: [[UInt8]] = [
                [key(number, 0), 7],
                [key(number, 1), 1, 2, 3, 4, 5, 6, 7, 8],
                [key(number, 3), key(1, 0), 7, key(2, 3), key(2, 4), key(number, 4)],
                [key(number, 5), 1, 2, 3, 4],
            ]
            for stray in strays {
                // Some strays are proper values of their field; what counts is that all of them can be passed on.
                let kept = try MesosFrameworkInfo(serializedBytes: stray + known)
                #expect(jsonEncode(kept)["user"] == "u")
                let decoded = try MediaType.protobuf.decode(MesosFrameworkInfo.self, from: stray + known)
                #expect(decoded.unknownFields.data.isEmpty)
                #expect(jsonEncode(decoded)["name"] == "n")
            }
        }
    }

    @Test func roundTripThroughBothEncodings() throws {
        var call = SchedulerCall()
        call.type = .accept
        var operation = MesosOffer.Operation()
        operation.type = .launch
        var task = MesosTaskInfo()
        task.name = "täsk"
        task.taskID = MesosTaskID("1")
        task.agentID = MesosAgentID("a")
        task.data = .init([0, 255, 3])
        task.healthCheck.http.port = 80
        task.healthCheck.http.statuses = [200, 204]
        operation.launch.taskInfos = [task]
        call.accept.operations = [operation]
        for media in MediaType.allCases {
            let bytes = media.encode(call)
            let decoded = try media.decode(SchedulerCall.self, from: bytes)
            #expect(media.encode(decoded) == bytes)
            #expect(decoded.accept.operations[0].launch.taskInfos[0].healthCheck.http.statuses == [200, 204])
        }
    }
}
