import Coordination
import Testing

@Suite struct ZooKeeperLocationTests {
    @Test func partsAndTheirDefaults() throws {
        let plain = try ZooKeeperLocation("zk://h1,h2:2182/a/b/")
        #expect(plain.servers == ["h1:2181", "h2:2182"])
        #expect(plain.path == "/a/b")
        #expect(plain.user == nil)
        let secured = try ZooKeeperLocation("zk://me:p@ss:word@h1")
        #expect(secured.user == "me")
        #expect(secured.password == "p@ss:word")
        #expect(secured.path == "")
    }

    @Test(arguments: [
        "h1:2181/a", "zk://", "zk:///a", "zk://h1:0/a", "zk://h1:2181:3/a", "zk://h1//a", "zk://h1/a\u{7}",
        "zk://me@h1/a", "zk://:secret@h1/a",
    ])
    func whatIsNoLocationIsRefused(_ text: String) {
        let error = #expect(throws: StoreError.self) { try ZooKeeperLocation(text) }
        #expect(error?.code == .invalid)
    }

    @Test func errorsDoNotShowPasswords() throws {
        let error = #expect(throws: StoreError.self) { try ZooKeeperLocation("zk://me:secret@h1:port/a") }
        #expect(error.map { "\($0)" }?.contains("secret") == false)
        #expect(error.map { "\($0)" }?.contains("h1:port/a") == true)
    }
}
